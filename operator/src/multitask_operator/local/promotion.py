"""Which export `mtm serve` serves. Pure; `Workdir.publish` sets the links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from multitask_api.stage_io.manifest import StageFailure
from multitask_api.stages import ArtifactKey, Graph, NodeState
from multitask_operator.planner import Failed, export_of

UNVERIFIED = "the served export is unverified: no run has compared its answers with the measured ones"


class Check(Enum):
    """The result of ``verify`` for an export."""

    PASSED = "passed"
    FAILED = "failed"
    PENDING = "pending"  # it runs, or will run
    SKIPPED = "skipped"  # the user asked for that


@dataclass(frozen=True)
class Published:
    """``current``: the export that is served. ``verified``: the last one that ``verify`` passed."""

    current: ArtifactKey | None = None
    verified: ArtifactKey | None = None

    @property
    def unverified(self) -> bool:
        """Whether an export is served that ``verify`` has not passed."""
        return self.current is not None and self.current != self.verified


def promoted_export(graph: Graph) -> ArtifactKey | None:
    """The export of ``graph``, if it is done and the model's qualification rule promotes it."""
    node, export = graph["export"], export_of(graph)
    if node.state is not NodeState.DONE or node.digest is None or export is None or not export.promoted:
        return None
    return node.name, node.digest


def verify_outcome(graph: Graph, failed: Sequence[Failed], last_failure: StageFailure | None, *, wanted: bool) -> Check:
    """The result of ``verify`` for the export of ``graph``, which must have that stage.

    ``failed``: the stages that failed for good in this run. ``last_failure``: how ``verify`` last failed, in this run
    or an earlier one. ``wanted``: whether this run has ``verify``.
    """
    if graph["verify"].state is NodeState.DONE:
        return Check.PASSED
    if any(item.failure.stage == "verify" for item in failed):
        return Check.FAILED
    # A retryable failure of an earlier run means that nothing could be compared, not that answers differ.
    if last_failure is not None and last_failure.kind != "Retryable":
        return Check.FAILED
    return Check.PENDING if wanted else Check.SKIPPED


def next_published(before: Published, export: ArtifactKey, check: Check) -> Published:
    """What to publish, given ``check`` of ``export``. If it failed, the last verified export is served again."""
    if check is Check.PASSED:
        return Published(export, export)
    verified = before.verified if before.verified != export else None
    if check is Check.SKIPPED:
        return Published(export, verified)
    withdraw = check is Check.FAILED and before.current == export
    return Published(verified if withdraw else before.current, verified)
