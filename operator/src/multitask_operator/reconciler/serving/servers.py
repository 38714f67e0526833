"""How many servers each revision has, and which revisions are kept. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.revision_state import RevisionState
from multitask_operator.rollout import RolloutDecision


def replicas_of(state: ModelState, revision: RevisionState, decision: RolloutDecision) -> int:
    """The servers that a live revision is to have: ``spec.serving.replicas``, or fewer if it gives way to another one.

    During a rollout servers are only added otherwise: an autoscaler sees the load of one revision shrink while traffic
    moves, and what it takes away would be missing at the next step.
    """
    wanted, is_rolling = state.model.spec.serving.replicas, decision.is_progressing
    if wanted > 0 and revision.name in decision.servers:
        return decision.servers[revision.name]
    return max(wanted, revision.replicas) if is_rolling and wanted > 0 else wanted


def obsolete_revisions(
    state: ModelState, revisions: Mapping[str, RevisionState], live: Collection[str]
) -> frozenset[str]:
    """What is neither live nor among the ``spec.storage.keepRevisions`` newest of the others."""
    others = [revision for revision in revisions.values() if revision.name not in live]
    recorded = [revision for revision in others if revision.record is not None]
    storage = state.model.spec.storage
    kept = {revision.name for revision in recorded[: storage.keep_revisions if storage is not None else None]}
    return frozenset(revision.name for revision in others if revision.name not in kept)
