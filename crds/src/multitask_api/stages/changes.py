"""Which edits of a spec change what is computed."""

from __future__ import annotations

from typing import Any

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stage_io.parameters import Optimisation
from multitask_api.types import JsonDict

_NEVER_READ = {"serving", "suspend", "credentials", "service_account_name", "image_pull_secrets"}
"""Fields of a spec that no stage's digest covers. Of ``training`` the digests cover what `Optimisation` has."""


def trains_the_same(spec: MultiTaskModelSpec, other: MultiTaskModelSpec) -> bool:
    """Whether the two differ at most in where and when stages run: pods, queues, credentials, serving, suspension."""
    return _what_is_computed(spec) == _what_is_computed(other)


def _what_is_computed(spec: MultiTaskModelSpec) -> JsonDict:
    kept: dict[str, Any] = {name: True for name in type(spec).model_fields if name not in _NEVER_READ}
    kept["training"] = set(Optimisation.model_fields)
    if spec.storage is not None:
        kept["storage"] = {"uri"}
    return spec.model_dump(mode="json", include=kept)
