"""The folders of a pod's work volume, which is empty when the pod begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from multitask_api.cluster import POD_ENVIRONMENT, ROOT


def make_folders(environment: Mapping[str, str]) -> None:
    """Make those that the environment names: for temporary files, caches, settings. Before anything looks for them."""
    for name in POD_ENVIRONMENT:
        path = Path(environment.get(name, ""))
        if path.is_relative_to(ROOT):
            path.mkdir(parents=True, exist_ok=True)
