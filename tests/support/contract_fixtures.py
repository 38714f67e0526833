"""The fixtures of tests/unit/contract: what version 0.1.0 stored and sent, and other versions must still read."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from multitask_api.resource import MultiTaskModel
from multitask_api.resource.parsing import check
from multitask_api.stage_io.manifest import Manifest, Resolved
from multitask_api.stages import ArtifactKey, Graph, build
from multitask_api.stages.versions import UNRECORDED_VERSIONS

FOLDER = Path(__file__).parents[1] / "fixtures" / "contract"
SAMPLES = ("full", "lora")
NAMESPACE = "team-a"


@cache
def read_fixture(name: str) -> Any:
    """One of the YAML files; everybody gets the same object."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))


def sample_model(sample: str) -> MultiTaskModel:
    """The resource of a sample."""
    return check(read_fixture(f"{sample}-graph")["resource"])


def sample_graph(sample: str, *, without: tuple[str, ...] = ()) -> Graph:
    """The graph of a sample, with all manifests that its fixture has but those of the stages ``without``."""
    fixture = read_fixture(f"{sample}-graph")
    model = sample_model(sample)
    manifests: dict[ArtifactKey, Manifest] = {}
    for data in fixture["manifests"]:
        manifest = Manifest.model_validate(data)
        if manifest.stage not in without:
            manifests[manifest.stage, manifest.digest] = manifest
    resolved = Resolved.model_validate(fixture["resolved"])
    return build(f"{NAMESPACE}/{model.metadata.name}", model.spec, resolved, manifests, UNRECORDED_VERSIONS)
