"""A resource, and a storage in which stages "run" at once: their outputs follow from their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.parsing import check
from multitask_api.stage_io.affinity import AffinityResult
from multitask_api.stage_io.manifest import Manifest, Resolved, ResolvedData
from multitask_api.stage_io.mixture_start import MixtureStart
from multitask_api.stage_io.results import (
    BaseResult,
    CurvePoint,
    EvaluateResult,
    FilterResult,
    GroupPlan,
    TaskPoint,
    TaskVerdict,
    TrainResult,
)
from multitask_api.stages.digests import digest
from multitask_api.stages.graph import build
from multitask_api.stages.nodes import Graph, Node, NodeState
from multitask_api.stages.sampling import instance_balanced, mixture
from multitask_api.stages.versions import VERSIONS, Versions
from multitask_api.stages.warm_start import FINISHED, FORM, tasks_of, weights_form

Document = dict[str, Any]
SPLITS = ("train", "validation", "test")
ROWS = {"urgency": 900, "intent": 5000, "spam": 300, "escalate": 120, "reply": 400}


def task(name: str, **changes: Any) -> Document:
    kind: Document = {"type": "Classification", "labels": ["a", "b"]}
    if name == "reply":
        kind = {"type": "Generation"}
    data = {split: {"uri": f"{name}/{split}.jsonl"} for split in SPLITS}
    return {"name": name, "prompt": "{text}", "data": data} | kind | changes


def document(*tasks: Document, **spec: Any) -> Document:
    """Two classification tasks and a generation task, or ``tasks``."""
    chosen = list(tasks) or [task("urgency"), task("intent"), task("reply")]
    return {"metadata": {"name": "desk"}, "spec": {"baseModel": {"uri": "builtin://micro"}, "tasks": chosen} | spec}


def changed(source: Document, path: str, value: Any) -> Document:
    """A copy with another value at ``path``, as in ``training.batchRows`` or ``tasks.0.labels``."""
    copy = deepcopy(source)
    *parents, last = path.split(".")
    target: Any = copy["spec"]
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    target[last] = value
    return copy


def resolved(spec: MultiTaskModelSpec, contents: Mapping[str, str]) -> Resolved:
    """Every URI has its own content, unless ``contents`` gives it another."""
    sources = [getattr(item.data, split).uri for item in spec.tasks for split in SPLITS]
    sources += [source.uri for source in (spec.pretraining.corpus if spec.pretraining else ())]
    sources += [spec.base_model.uri]
    data = {uri: ResolvedData(fingerprint=digest(contents.get(uri, uri)), files=1, bytes=1) for uri in sources}
    return Resolved(data=data)


@dataclass
class SimulatedStages:
    """Manifests in storage; `run` adds those of all stages that are ready, until none is left."""

    manifests: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    high_resource: tuple[str, ...] = ("intent",)
    high_resource_steps: int | None = None
    validation: dict[str, float] = field(default_factory=dict)
    """Baseline → its validation score."""
    verdicts: dict[str, str] = field(default_factory=dict)
    opposed: tuple[tuple[str, str], ...] = ()
    """Pairs of tasks that Affinity puts apart: the second is alone in its group then."""
    hurt: tuple[tuple[str, str], ...] = ()
    """Pairs that hurt each other and stay together."""
    versions: Versions = field(default_factory=lambda: VERSIONS)

    def graph(self, source: Document, *, serve: bool = True) -> Graph:
        spec = check(source).spec
        return build("desk", spec, resolved(spec, self.contents), self.manifests, self.versions, serve=serve)

    def run(self, source: Document, *, serve: bool = True) -> list[str]:
        """Run everything that is missing; the names of the stages that ran, in order."""
        ran: list[str] = []
        while not (graph := self.graph(source, serve=serve)).finished:
            ready = [node for node in graph.nodes if node.state is NodeState.READY]
            assert ready, f"stuck: {[node.name for node in graph.nodes if node.state is NodeState.WAITING]}"
            for node in ready:
                self.finish(node)
                ran.append(node.name)
        return ran

    def finish(self, node: Node) -> None:
        assert node.digest is not None
        assert node.parameters is not None
        result, outputs = self._result(node)
        finished = {FINISHED: f"{len(self.manifests):06d}"}  # stages end one after the other
        self.manifests[node.name, node.digest] = manifest_of(node, result, outputs, environment=finished)

    def _result(self, node: Node) -> tuple[Document, dict[str, str]]:
        parameters: Any = node.parameters
        if node.kind == "prepare":
            splits = {split: digest([node.name, parameters.fingerprints[split]]) for split in SPLITS}
            return {}, splits | {"rows": digest([ROWS[parameters.task.name]] * 3)}
        if node.kind == "baseline":
            name = parameters.tasks[0].name
            outputs = {output: digest([node.digest, output]) for output in ("model", "validation", "scores")}
            result = trained(name, self.validation.get(node.name, 0.8))
            return result.to_json(), outputs | {"saturation": digest([name, ROWS[name]])}
        if node.kind == "affinity":
            result = affinity_result(parameters.candidates, self.opposed, self.hurt)
            return result.to_json(), {"groups": digest(result.to_json())}
        if node.kind == "gradients":
            return {}, {"gradients": digest([node.digest])}
        if node.kind == "filter":
            return self._filter_result(parameters.groups, parameters.weights)
        if node.kind == "evaluate":
            verdicts = tuple(self._verdict(definition.name) for definition in parameters.tasks)
            return EvaluateResult(tasks=verdicts).to_json(), _outputs(node, "verdicts", "answers")
        if node.kind == "bundle":
            groups = {f"group/{group}": node.read_outputs[f"mixture/{group}#model"] for group in parameters.groups}  # type: ignore[index]
            return {}, groups | _outputs(node, "bundle")
        if node.kind == "base":
            seen = tuple(definition.name for definition in parameters.tasks)
            return BaseResult(parameters=1, vocabulary=1, tasks=seen).to_json(), _outputs(node, "model")
        if node.kind == "mixture":
            return self._mixture_result(node), {**_outputs(node, "model"), FORM: weights_form(parameters.tuning)}
        names = {"high-resource": ("model",), "export": ("bundle",)}
        return {}, _outputs(node, *names.get(node.kind, ("result",)))

    def _mixture_result(self, node: Node) -> Document:
        """With the start that the stage program records."""
        if node.start is None or node.start.key is None:
            return {}
        tasks = tasks_of(self.manifests[node.start.key])
        return {"start": MixtureStart(digest=node.start.key[1], tasks=tasks, rows_given={}).to_json()}

    def _filter_result(
        self, groups: Mapping[str, tuple[str, ...]], weights: Mapping[str, float] | None
    ) -> tuple[Document, dict[str, str]]:
        plans = []
        outputs = {}
        for name, tasks in groups.items():
            rows = {item: ROWS[item] for item in tasks}
            chosen = {item: ROWS[item] for item in tasks if item in self.high_resource}
            plan = GroupPlan(
                name=name,
                tasks=tasks,
                high_resource=tuple(chosen),
                high_resource_probabilities=instance_balanced(chosen),
                high_resource_steps=self.high_resource_steps,
                reason="chosen by the test",
                probabilities=mixture(rows, temperature=2, size_limit=None, weights=weights),
                mixture_steps=100,
            )
            plans.append(plan)
            outputs[f"high-resource/{name}"] = digest(plan.high_resource_probabilities)
            outputs[f"mixture/{name}"] = digest(plan.probabilities)
        return FilterResult(groups=tuple(plans)).to_json(), outputs

    def _verdict(self, name: str) -> TaskVerdict:
        verdict: Any = self.verdicts.get(name, "Qualified")
        return TaskVerdict(task=name, score=0.9, verdict=verdict, test_rows=10)


def affinity_result(
    candidates: Mapping[str, Sequence[str]],
    opposed: Sequence[tuple[str, str]] = (),
    hurt: Sequence[tuple[str, str]] = (),
) -> AffinityResult:
    """Opposed pairs at -0.8, those that hurt each other at -0.3, all others at 0.4; every half-width is 0.1."""
    groups: dict[str, tuple[str, ...]] = {}
    for name, tasks in candidates.items():
        apart = [task for task in tasks if any(pair[1] == task and pair[0] in tasks for pair in opposed)]
        together = tuple(task for task in tasks if task not in apart)
        groups |= {name: together} if together else {}
        groups |= {f"{name}-{task}": (task,) for task in apart}
    every = tuple(task for tasks in candidates.values() for task in tasks)

    def value(task: str, other: str) -> float:
        pairs = {(task, other), (other, task)}
        return -0.8 if pairs & set(opposed) else -0.3 if pairs & set(hurt) else 0.4

    return AffinityResult(
        groups=groups,
        tasks=every,
        affinity=tuple(tuple(value(task, other) for other in every[:row]) for row, task in enumerate(every)),
        half_width=tuple((0.1,) * row for row in range(len(every))),
        reasons=tuple(f"{first} and {second} are apart: affinity -0.80 ± 0.10" for first, second in opposed),
    )


def manifest_of(
    node: Node,
    result: Mapping[str, object],
    outputs: Mapping[str, str],
    seconds: float = 1.0,
    environment: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest that a stage program leaves for ``node``, without files."""
    assert node.digest is not None
    return Manifest(
        stage=node.name,
        kind=node.kind,
        digest=node.digest,
        version=node.version,
        read_outputs=dict(node.read_outputs or {}),
        outputs=dict(outputs),
        files={},
        result=dict(result),
        seconds=seconds,
        environment=dict(environment or {}),
    )


def trained(name: str, validation: float = 0.8) -> TrainResult:
    point = TaskPoint(loss=0.5, score=validation)
    return TrainResult(
        steps=100,
        chosen_step=80,
        saturation_step=60,
        still_improving=False,
        curve=(CurvePoint(step=80, phase="constant", tasks={name: point}),),
        validation={name: point},
        rows_given={name: 6400},
        tokens_given={name: 1},
        tokens=1,
    )


def _outputs(node: Node, *names: str) -> dict[str, str]:
    return {name: digest([node.digest, name]) for name in names}
