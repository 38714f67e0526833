"""Which export `mtm serve` serves. Pure; `Workdir.publish` carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from multitask_api.stage_io.manifest import StageFailure
from multitask_api.stages import ArtifactKey, Graph, NodeState
from multitask_operator.planner import Failed, export_of

UNVERIFIED = "what is served is unverified: no run has compared its served answers with the measured ones"


class Check(Enum):
    """What ``verify`` says of an export."""

    PASSED = "passed"
    FAILED = "failed"
    PENDING = "pending"  # it is to run, or runs
    LEFT_OUT = "left out"  # the user wants none


@dataclass(frozen=True)
class Published:
    """``current``: the export that is served. ``verified``: the last one that ``verify`` passed."""

    current: ArtifactKey | None = None
    verified: ArtifactKey | None = None

    @property
    def unverified(self) -> bool:
        """Whether nothing verified what is served."""
        return self.current is not None and self.current != self.verified


def promoted_export(graph: Graph) -> ArtifactKey | None:
    """The export of ``graph``, if it is there and its model's rule lets it through."""
    node, export = graph["export"], export_of(graph)
    if node.state is not NodeState.DONE or node.digest is None or export is None or not export.promoted:
        return None
    return node.name, node.digest


def check_of(graph: Graph, failed: Sequence[Failed], remembered: StageFailure | None, *, wanted: bool) -> Check:
    """What is known of the export of ``graph``, a graph with ``verify``.

    ``failed``: what failed for good in this run. ``remembered``: how ``verify`` last ended, in this run or before.
    """
    if graph["verify"].state is NodeState.DONE:
        return Check.PASSED
    if any(item.failure.stage == "verify" for item in failed):
        return Check.FAILED
    # A passing failure of an earlier run says that nothing could be compared, not that answers differ.
    if remembered is not None and remembered.kind != "Retryable":
        return Check.FAILED
    return Check.PENDING if wanted else Check.LEFT_OUT


def published(before: Published, export: ArtifactKey, check: Check) -> Published:
    """What is published once ``check`` is known of ``export``; one that failed gives way to the last verified one."""
    if check is Check.PASSED:
        return Published(export, export)
    verified = before.verified if before.verified != export else None
    if check is Check.LEFT_OUT:
        return Published(export, verified)
    withdrawn = check is Check.FAILED and before.current == export
    return Published(verified if withdrawn else before.current, verified)
