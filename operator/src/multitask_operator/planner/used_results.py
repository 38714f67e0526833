"""Which results in storage a plan uses: what remains can be removed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from multitask_api.stages import ArtifactKey, Graph, NodeState


@dataclass(frozen=True)
class UsedResults:
    """The results that one graph uses, or that it may turn out to use."""

    keys: frozenset[ArtifactKey]
    """Those with a known digest, whether they are in storage or still to be made."""
    unfinished: frozenset[ArtifactKey]
    """Those of them that are still to be made."""
    open_stages: frozenset[str]
    """Stages whose digest is not known yet: one of their results may be used again. One that is skipped has none."""
    open_kinds: frozenset[str]
    """Kinds of stages of which it is not known yet which there are: so is any result of theirs."""

    @classmethod
    def of(cls, graph: Graph) -> UsedResults:
        """What the nodes of ``graph`` use."""
        keys = {(node.name, node.digest): node.state for node in graph.nodes if node.digest is not None}
        # What a mixture begins with is read until it is done.
        open_starts = (node.start for node in graph.nodes if node.state is not NodeState.DONE)
        started_from = {start.key for start in open_starts if start is not None and start.key is not None}
        return cls(
            frozenset(keys) | started_from,
            frozenset(key for key, state in keys.items() if state is not NodeState.DONE),
            frozenset(node.name for node in graph.nodes if node.digest is None and node.state is not NodeState.SKIPPED),
            graph.open_kinds,
        )

    def uses(self, key: ArtifactKey) -> bool:
        """Whether the result has to stay."""
        return key in self.keys or self.may_use(key[0])

    def may_use(self, stage: str) -> bool:
        """Whether any result of ``stage`` may be used again."""
        return stage in self.open_stages or stage.partition("/")[0] in self.open_kinds
