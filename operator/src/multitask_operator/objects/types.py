"""The type of an object that is being built."""

from __future__ import annotations

from typing import Any

JsonDict = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON data."""
