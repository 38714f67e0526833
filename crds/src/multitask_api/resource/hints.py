"""What is allowed and seldom meant."""

from __future__ import annotations

from multitask_api.resource.spec import MultiTaskModelSpec
from multitask_api.uris import is_builtin


def hints(spec: MultiTaskModelSpec) -> tuple[str, ...]:
    """One sentence each: where in the spec, what to expect, what to write instead."""
    found = []
    if is_builtin(spec.base_model.uri) and spec.tuning.method != "Full" and spec.pretraining is None:
        found.append(
            f"spec.tuning.method: {spec.tuning.method} trains adapters over weights that stay as they are, and those of"
            f" {spec.base_model.uri} are random; set method: Full, or add spec.pretraining"
        )
    return tuple(found)
