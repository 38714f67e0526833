"""Resources, manifests and observations for tests of the planner, the report and the executor."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.affinity import CheckResult, GradientsResult
from multitask_api.stage_io.ledger import LedgerResult, LedgerSide, Reduction
from multitask_api.stage_io.manifest import Manifest, Resolved, ResolvedData, StageFailure
from multitask_api.stage_io.mixture_start import MixtureStart
from multitask_api.stage_io.parameters import (
    AffinityParameters,
    CheckParameters,
    EvaluateParameters,
    ExportParameters,
    FilterParameters,
    TrainParameters,
)
from multitask_api.stage_io.results import (
    BaseResult,
    BundleResult,
    CurvePoint,
    EvaluateResult,
    ExportResult,
    FilterResult,
    GroupPlan,
    PrepareResult,
    ServedBy,
    SplitRows,
    TaskPoint,
    TaskVerdict,
    TrainResult,
    VerifyResult,
)
from multitask_api.stages import Graph, Node, NodeState, build
from multitask_api.stages.versions import VERSIONS
from multitask_api.stages.warm_start import FORM, weights_form
from multitask_operator.planner import Capacity, Failed, PlannerInput
from support.simulated_stages import affinity_result, manifest_of

GB = 1024**3
TWO_CORES = Capacity(cores=2, memory=64 * GB)
ROWS = {"urgency": 4000, "intent": 9000, "escalate": 110, "reply": 2000}


def task(name, kind="Classification", **more):
    entry = {"name": name, "type": kind, "prompt": "{text}\n:", **more}
    if kind == "Classification":
        entry.setdefault("labels", ["a", "b", "c"])
    entry["data"] = {split: {"uri": f"{name}/{split}.jsonl"} for split in ("train", "validation", "test")}
    return entry


def model(*tasks, name="desk", **spec):
    tasks = tasks or (task("urgency"), task("intent"), task("escalate"), task("reply", "Generation"))
    document = {"baseModel": {"uri": "builtin://tiny"}, "tasks": list(tasks), "tuning": {"method": "Full"}, **spec}
    return MultiTaskModel.model_validate({"metadata": {"name": name}, "spec": document})


def resolved(resource):
    uris = [getattr(item.data, split).uri for item in resource.spec.tasks for split in ("train", "validation", "test")]
    uris += [source.uri for source in (resource.spec.pretraining.corpus if resource.spec.pretraining else ())]
    return Resolved(data={uri: ResolvedData(fingerprint=f"f-{uri}", files=1, bytes=10) for uri in uris})


def graph_of(resource, manifests=None, serve=True, versions=VERSIONS) -> Graph:
    return build(resource.metadata.name, resource.spec, resolved(resource), manifests or {}, versions, serve=serve)


def planner_input(resource, manifests=None, **more) -> PlannerInput:
    given = {"capacity": TWO_CORES, "versions": VERSIONS, **more}
    return PlannerInput(resolved=resolved(resource), manifests=manifests or {}, **given)


def failed(node: Node, kind="Fault", attempts=1, when=0.0) -> Failed:
    return Failed(StageFailure(stage=node.name, kind=kind, message="it broke"), node.digest, attempts, when, "x.log")


def manifest(node: Node, resource, seconds=2.0, **result) -> Manifest:
    """What a stage program would leave for a ready node; ``result`` replaces fields of its result."""
    record, names = RESULTS[node.kind](node, resource)
    outputs = {name: hashlib.sha256(f"{node.name} {node.digest} {name}".encode()).hexdigest()[:12] for name in names}
    if isinstance(node.parameters, TrainParameters) and node.kind == "mixture":
        outputs[FORM] = weights_form(node.parameters.tuning)
    return manifest_of(node, record.model_copy(update=result).to_json(), outputs, seconds)


def finish(resource, manifests, node: Node, **result):
    """``manifests`` with ``node`` done."""
    return {**manifests, (node.name, node.digest): manifest(node, resource, **result)}


def all_done(resource, until="", serve=True, versions=VERSIONS, manifests=None, **results):
    """Manifests of everything up to (not with) the first stage whose name begins with ``until``.

    ``manifests`` are there before. ``results``: stage kind → fields of its result to replace.
    """
    manifests = manifests or {}
    while True:
        graph = graph_of(resource, manifests, serve, versions)
        ready = [node for node in graph.nodes if node.state is NodeState.READY]
        ready = [node for node in ready if not (until and node.name.startswith(until))]
        if not ready:
            return manifests
        for node in ready:
            manifests = finish(resource, manifests, node, **results.get(node.kind.replace("-", "_"), {}))


def _prepare(node, resource):
    rows = ROWS.get(node.name.split("/")[1], 500)
    result = PrepareResult(rows=SplitRows(train=rows, validation=50, test=100), characters={"train": rows * 40})
    return result, ("train", "validation", "test", "rows")


def _base(node, resource):
    names = tuple(item.name for item in resource.spec.tasks)
    return BaseResult(parameters=600_000, vocabulary=4096, tasks=names, tokens_per_second=9000.0), ("model",)


def _train(node, resource):
    parameters = node.parameters
    assert isinstance(parameters, TrainParameters)
    names = [item.name for item in parameters.tasks]
    curve = tuple(
        CurvePoint(
            step=step,
            phase="constant",
            tasks={name: TaskPoint(loss=2.0 / (1 + step / 100), score=0.9 - 0.5 / (1 + step / 80)) for name in names},
        )
        for step in range(0, 401, 50)
    )
    result = TrainResult(
        steps=400,
        chosen_step=350,
        saturation_step=300,
        still_improving=False,
        curve=curve,
        validation=curve[-1].tasks,
        rows_given={name: int(400 * 64 * parameters.probabilities[name]) for name in names},
        tokens_given={name: int(400 * 64 * parameters.probabilities[name]) * 20 for name in names},
        tokens=400 * 64 * 20,
        tokens_per_second=8000.0,
        test_score=0.85 if node.kind == "baseline" else None,
        start=_start(node),
    )
    return result, ("model", "saturation", "validation", "scores")


def _gradients(node, resource):
    return GradientsResult(rows=256, chunks=32, weights=50_000), ("gradients",)


def _affinity(node, resource):
    """``escalate`` opposes ``urgency``, and ``intent`` hurts it; see `affinity_result`."""
    parameters = node.parameters
    assert isinstance(parameters, AffinityParameters)
    result = affinity_result(parameters.candidates, [("urgency", "escalate")], [("urgency", "intent")])
    return result, ("groups",)


def _check(node, resource):
    parameters = node.parameters
    assert isinstance(parameters, CheckParameters)
    result = CheckResult(
        task=parameters.task,
        without=parameters.without,
        together=TaskPoint(loss=0.5, score=0.7),
        apart=TaskPoint(loss=0.4, score=0.8),
        rows=800,
    )
    return result, ("result",)


def _start(node):
    """What a stage program records of a warm start; the earlier mixture was given 1,000 rows."""
    if node.start is None or node.start.key is None:
        return None
    return MixtureStart(digest=node.start.key[1], tasks=("urgency", "intent"), rows_given={"urgency": 1000})


def _filter(node, resource):
    parameters = node.parameters
    assert isinstance(parameters, FilterParameters)
    plans = []
    for group, tasks in parameters.groups.items():
        high = tasks[:1] if len(tasks) > 1 else ()
        plans.append(
            GroupPlan(
                name=group,
                tasks=tasks,
                high_resource=high,
                high_resource_probabilities=dict.fromkeys(high, 1.0),
                reason="needs many steps" if high else "one task alone needs no stage 2",
                probabilities=dict.fromkeys(tasks, 1 / len(tasks)),
                mixture_steps=400,
                need_rows=dict.fromkeys(tasks, 2000),
            )
        )
    names = [f"{kind}/{group}" for group in parameters.groups for kind in ("high-resource", "mixture")]
    return FilterResult(groups=tuple(plans)), names


def _bundle(node, resource):
    names = node.parameters.groups
    return BundleResult(models=dict.fromkeys(names, 2_400_000)), ["bundle", *(f"group/{name}" for name in names)]


def _evaluate(node, resource):
    parameters = node.parameters
    assert isinstance(parameters, EvaluateParameters)
    verdicts = tuple(
        TaskVerdict(
            task=item.name,
            score=0.86,
            baseline=0.85,
            ratio=1.012,
            interval=(0.96, 1.06),
            floor=0.4,
            verdict="Qualified",
            test_rows=100,
        )
        for item in parameters.tasks
    )
    return EvaluateResult(tasks=verdicts), ("verdicts", "answers")


def _export(node, resource):
    parameters = node.parameters
    assert isinstance(parameters, ExportParameters)
    group_of = {name: group for group, names in parameters.groups.items() for name in names}
    served = tuple(
        ServedBy(task=item.name, served_by=group_of[item.name], model=group_of[item.name], reason="Qualified")
        for item in parameters.tasks
    )
    return ExportResult(revision="0123abcd", tasks=served, models=dict.fromkeys(parameters.groups, 2_400_000)), [
        "bundle"
    ]


def _verify(node, resource):
    return VerifyResult(compared=400, equal=399, near_ties=1, different=0, tasks={}), ("result",)


def _ledger(node, resource):
    single = LedgerSide(
        models=4,
        bytes=9_600_000,
        requests_per_second=90.0,
        training_seconds=80,
        stage_seconds={"base": 20, "baseline": 60},
        replicas=4,
    )
    multi = LedgerSide(
        models=2,
        bytes=4_800_000,
        requests_per_second=120.0,
        training_seconds=130,
        stage_seconds={"base": 20, "baseline": 60, "high-resource": 0, "mixture": 50},
        replicas=1,
    )
    result = LedgerResult(
        single_task=single,
        multi_task=multi,
        reduction=Reduction(bytes=0.5, replicas=0.75),
        load_per_task=10.0,
        runtime_bytes=400_000_000,
    )
    return result, ("result",)


RESULTS = {
    "prepare": _prepare,
    "base": _base,
    "gradients": _gradients,
    "affinity": _affinity,
    "check": _check,
    "baseline": _train,
    "filter": _filter,
    "high-resource": _train,
    "mixture": _train,
    "bundle": _bundle,
    "evaluate": _evaluate,
    "export": _export,
    "verify": _verify,
    "ledger": _ledger,
}

__all__ = [
    "all_done",
    "failed",
    "finish",
    "graph_of",
    "manifest",
    "model",
    "planner_input",
    "replace",
    "resolved",
    "task",
]
