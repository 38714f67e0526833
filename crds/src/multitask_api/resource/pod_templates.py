"""What a model adds to the pods of its stages."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from multitask_api.types import Record

#: Part of a Kubernetes object, passed through unchanged.
FreeForm = dict[str, Any]


def _of_stage(kind: str) -> Any:
    return Field(
        default_factory=dict,
        description=f"Additions to the pods of {kind}, applied after cpu or gpu. Default: no additions.",
    )


def _of_newer_stage(kind: str) -> Any:
    """Of a stage that images of older releases do not know: left out of what they read unless it is set."""
    return Field(None, description=f"Additions to the pods of {kind}, applied after cpu or gpu. Default: no additions.")


class PodTemplates(Record):
    """Additions to the pods of some stages, each in the form of podTemplate and applied after it."""

    cpu: FreeForm = Field(
        default_factory=dict,
        description="Additions to the pods that use no GPU: of resolve, prepare, filter, affinity, bundle, gc and "
        "clean-up, of base without pretraining, and of all stages with gpusPerNode 0. Default: no additions.",
    )
    gpu: FreeForm = Field(
        default_factory=dict,
        description="Additions to the pods that use a GPU: node selectors and tolerations of GPU nodes belong here. "
        "Default: no additions.",
    )
    resolve: FreeForm = _of_stage("resolve")
    prepare: FreeForm = _of_stage("prepare")
    base: FreeForm = _of_stage("base")
    baseline: FreeForm = _of_stage("baseline")
    filter: FreeForm = _of_stage("filter")
    gradients: FreeForm | None = _of_newer_stage("gradients")
    affinity: FreeForm | None = _of_newer_stage("affinity")
    check: FreeForm | None = _of_newer_stage("check")
    high_resource: FreeForm = _of_stage("high-resource")
    mixture: FreeForm = _of_stage("mixture")
    bundle: FreeForm = _of_stage("bundle")
    evaluate: FreeForm = _of_stage("evaluate")
    export: FreeForm = _of_stage("export")
    clean_up: FreeForm = _of_stage("clean-up and gc")

    def of_kind(self, kind: str) -> FreeForm:
        """The additions to the pods of one kind of stage, such as ``high-resource``; empty if there are none."""
        given: FreeForm | None = getattr(self, kind.replace("-", "_"), None)
        return given or {}
