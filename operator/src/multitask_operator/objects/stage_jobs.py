"""A Job that is to be created: what it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multitask_api.cluster import CLEAN_UP, DIGEST_ANNOTATION, GC, RESOLVE, RESOLVED_BY_ANNOTATION, STAGE_ANNOTATION
from multitask_api.stage_io.manifest import StageOrder
from multitask_api.stages import ArtifactKey
from multitask_operator.objects.names import (
    Owner,
    clean_up_name,
    gc_name,
    generation_annotation,
    resolve_name,
    stage_job_name,
)


@dataclass(frozen=True)
class StageJobSpec:
    """Stage orders of one kind, run by one pod, or ``resolve``, ``gc`` or ``clean-up``, which have none."""

    name: str
    kind: str
    generation: int
    orders: tuple[StageOrder, ...] = ()
    resolved_by: str | None = None
    stages: int = 1
    """How many stages it runs; the time that it may take is counted by them."""

    @classmethod
    def of_stages(
        cls, owner: Owner, generation: int, orders: Sequence[StageOrder], resolved_by: str | None = None
    ) -> StageJobSpec:
        """The Job of ``orders``, which are of one kind; its name does not depend on their sequence.

        ``resolved_by``: the resolve Job of the generation that asks for it.
        """
        ordered = tuple(sorted(orders, key=lambda order: order.stage))
        (kind,) = {order.kind for order in ordered}
        name = stage_job_name(owner.name, kind, [order.digest for order in ordered])
        return cls(name, kind, generation, ordered, resolved_by, len(ordered))

    @classmethod
    def of_resolve(cls, owner: Owner, generation: int, refresh: str | None) -> StageJobSpec:
        """The Job that looks at data, base model and storage of a generation."""
        return cls(resolve_name(owner, generation, refresh), RESOLVE, generation)

    @classmethod
    def of_clean_up(cls, owner: Owner, generation: int) -> StageJobSpec:
        """The Job that removes what the model's runs have written."""
        return cls(clean_up_name(owner), CLEAN_UP, generation)

    @classmethod
    def of_gc(cls, owner: Owner, generation: int, order: str) -> StageJobSpec:
        """The Job that removes what nothing uses, for this value of the annotation."""
        return cls(gc_name(owner, order), GC, generation)

    @property
    def annotations(self) -> dict[str, str]:
        """What identifies the Job in the cluster."""
        if not self.orders:
            return generation_annotation(self.generation)
        resolved_by = {RESOLVED_BY_ANNOTATION: self.resolved_by} if self.resolved_by else {}
        return stage_annotations([(order.stage, order.digest) for order in self.orders]) | resolved_by


def stage_annotations(keys: Sequence[ArtifactKey]) -> dict[str, str]:
    """On the children of a Job that runs these stages."""
    return {
        STAGE_ANNOTATION: ",".join(stage for stage, _ in keys),
        DIGEST_ANNOTATION: ",".join(digest for _, digest in keys),
    }
