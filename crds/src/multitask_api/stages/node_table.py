"""The nodes of a graph while it is built: each new node gets its digest and state from those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.parameters import StageParameters
from multitask_api.stage_io.results import FilterResult, GroupPlan, TrainResult
from multitask_api.stages.digests import digest
from multitask_api.stages.nodes import ArtifactKey, Node, NodeState, Ref, Start
from multitask_api.stages.versions import Versions

Manifests = Mapping[ArtifactKey, Manifest]
"""(stage name, digest) → the manifest that is in storage."""


class NodeTable:
    """Nodes by name, in the order in which they were added; a node may only read nodes that were added before it."""

    def __init__(self, manifests: Manifests, versions: Versions) -> None:
        self.nodes: dict[str, Node] = {}
        self.versions = versions
        self.manifests = manifests

    def add(
        self,
        name: str,
        kind: str,
        parameters: StageParameters | None,
        *,
        reads: Sequence[Ref],
        needs: Sequence[str] = (),
        start: Start | None = None,
    ) -> None:
        """Add a node; its digest is known once everything it reads has an output digest.

        ``parameters`` is None while they depend on results that are missing. ``start``: the weights that it begins with
        are read too.
        """
        first = {str(Ref(name, "model")): start.output} if start is not None and start.output is not None else None
        self.nodes[name] = self.node(name, kind, parameters, reads=reads, needs=needs, also_read=first, start=start)

    def node(
        self,
        name: str,
        kind: str,
        parameters: StageParameters | None,
        *,
        reads: Sequence[Ref],
        needs: Sequence[str] = (),
        also_read: Mapping[str, str] | None = None,
        start: Start | None = None,
    ) -> Node:
        """A node as `add` makes it; ``also_read``: outputs of results that no node of the graph has."""
        reads = tuple(reads)
        stages = tuple(dict.fromkeys([*(ref.stage for ref in reads), *needs]))
        known = {str(ref): value for ref in reads if (value := self.output(ref)) is not None}
        if parameters is None or len(known) < len(set(reads)):
            missing = tuple(stage for stage in stages if not self._is_settled(stage))
            return Node(name, kind, NodeState.WAITING, needs=missing, reads=reads, start=start)
        known |= also_read or {}
        version = self.versions[kind]
        own = digest({"stage": name, "version": version, "parameters": parameters.identity(), "reads": known})
        manifest = self.manifests.get((name, own))
        ready = all(self._is_settled(stage) for stage in stages)
        state = NodeState.DONE if manifest else NodeState.READY if ready else NodeState.WAITING
        needed = stages if state is not NodeState.WAITING else tuple(s for s in stages if not self._is_settled(s))
        return Node(name, kind, state, needed, reads, version, parameters, own, known, manifest, start=start)

    def skip(self, name: str, kind: str, *, needs: tuple[str, ...], reason: str, stand_in: str | None = None) -> None:
        """Add a node that has nothing to do; the outputs of ``stand_in`` take the place of those that it lacks."""
        self.nodes[name] = Node(name, kind, NodeState.SKIPPED, needs=needs, reason=reason, stand_in=stand_in)

    def set_start(self, name: str, start: Start) -> None:
        """Record how a mixture begins that starts cold."""
        self.nodes[name] = replace(self.nodes[name], start=start)

    def output(self, ref: Ref) -> str | None:
        """The digest of one output; None while its stage is not done."""
        node = self.nodes.get(ref.stage)
        if node is not None and node.stand_in is not None:
            node = self.nodes[node.stand_in]
        return node.manifest.outputs[ref.output] if node and node.manifest else None

    def baseline_names(self) -> list[str]:
        """The names of all baselines."""
        return [name for name, node in self.nodes.items() if node.kind == "baseline"]

    def baseline_refs(self, task: str, output: str) -> list[Ref]:
        """One output of every baseline of a task, in the order of their seeds."""
        return [Ref(name, output) for name in self.baseline_names() if name.startswith(f"baseline/{task}/")]

    def group_plan(self, group: str) -> GroupPlan | None:
        """What the filter decided for a group; None while it is not done."""
        manifest = self.nodes["filter"].manifest
        return FilterResult.model_validate(manifest.result).group(group) if manifest else None

    def best_baseline(self, task: str) -> str | None:
        """The baseline that answers the task where one has to: the seed with the best validation score, ties by name.

        None while a seed is not done, or without baselines.
        """
        names = [ref.stage for ref in self.baseline_refs(task, "validation")]
        scores = {}
        for name in names:
            manifest = self.nodes[name].manifest
            if manifest is not None:
                scores[name] = TrainResult.model_validate(manifest.result).validation[task].score
        if not names or len(scores) < len(names):
            return None
        return min(names, key=lambda name: (-scores[name], name))

    def reference_scores(self, tasks: Sequence[str]) -> dict[str, float]:
        """Each task's baseline validation score, the mean over its seeds; only tasks that have a finished baseline."""
        means: dict[str, float] = {}
        for task in tasks:
            scores = []
            for ref in self.baseline_refs(task, "validation"):
                manifest = self.nodes[ref.stage].manifest
                if manifest is not None:
                    scores.append(TrainResult.model_validate(manifest.result).validation[task].score)
            if scores:
                means[task] = sum(scores) / len(scores)
        return means

    def _is_settled(self, stage: str) -> bool:
        return self.nodes[stage].state in (NodeState.DONE, NodeState.SKIPPED)
