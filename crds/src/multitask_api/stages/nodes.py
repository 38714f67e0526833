"""The nodes of the stage graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.parameters import StageParameters

ArtifactKey = tuple[str, str]
"""(stage name, digest): names one artifact."""


def artifact_filename(key: ArtifactKey) -> str:
    """``("baseline/urgency/seed-17", "ab12")`` as one file name."""
    return f"{key[0].replace('/', '__')}-{key[1]}"


@dataclass(frozen=True, order=True)
class Ref:
    """One named output of one stage."""

    stage: str
    output: str

    def __str__(self) -> str:
        return f"{self.stage}#{self.output}"


class NodeState(Enum):
    """What a node waits for, if anything."""

    DONE = "done"  # its manifest is in storage
    READY = "ready"  # everything it reads is in storage, its own manifest is not
    WAITING = "waiting"  # something it reads or needs is missing
    SKIPPED = "skipped"  # the filter chose no tasks for it, or another stage stands in for it


@dataclass(frozen=True)
class Start:
    """How a mixture with ``start: Previous`` begins."""

    reason: str
    """In words, for people."""
    key: ArtifactKey | None = None
    """The earlier result of the same stage whose weights it begins with; it may be gone once the mixture is done. None:
    it starts cold."""
    output: str | None = None
    """The digest of these weights."""
    cold: tuple[Manifest, ...] = ()
    """Of a warm start: the same mixture started cold, after its stage 2 if it has one; empty if storage has none."""


@dataclass(frozen=True)
class Node:
    """One stage of one spec.

    ``reads`` enter the digest; ``needs`` are the stages whose artifacts must be in storage before it starts.
    ``parameters`` and ``digest`` are None while something it reads is missing.
    """

    name: str
    kind: str
    state: NodeState
    needs: tuple[str, ...] = ()
    reads: tuple[Ref, ...] = ()
    version: int = 0
    parameters: StageParameters | None = None
    digest: str | None = None
    read_outputs: Mapping[str, str] | None = None
    manifest: Manifest | None = None
    reason: str = ""
    stand_in: str | None = None
    """Of a skipped stage: the stage whose artifact is read in its place."""
    start: Start | None = None
    """Of a mixture with ``start: Previous``."""

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The stages that have to finish first."""
        return self.needs if self.state is NodeState.WAITING else ()


@dataclass(frozen=True)
class Graph:
    """All nodes of a spec in an order in which each comes after what it needs."""

    nodes: tuple[Node, ...]
    groups: Mapping[str, tuple[str, ...]]
    """Group → its tasks; empty while the stage ``affinity`` has to find them."""
    open_kinds: frozenset[str] = frozenset()
    """Kinds of stages of which it is not known yet which there are."""

    @cached_property
    def group_of(self) -> Mapping[str, str]:
        """Task → its group; empty while the groups are not known."""
        return {task: group for group, tasks in self.groups.items() for task in tasks}

    def may_have(self, stage: str) -> bool:
        """Whether ``stage`` is one of the nodes, or may turn out to be."""
        return stage in self or stage.partition("/")[0] in self.open_kinds

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def of_kind(self, kind: str) -> tuple[Node, ...]:
        """The nodes of one kind, in order."""
        return tuple(node for node in self.nodes if node.kind == kind)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return all(node.state in (NodeState.DONE, NodeState.SKIPPED) for node in self.nodes)
