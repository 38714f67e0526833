"""The report of a run, from its graph. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from multitask_api.report import Report, ReportGroup, ReportStage, ReportTask
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec, TaskSpec
from multitask_api.stage_io.ledger import LedgerResult
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import (
    Agreement,
    BaseResult,
    EvaluateResult,
    FilterResult,
    GroupPlan,
    PrepareResult,
    ServedBy,
    SplitRows,
    TaskVerdict,
    TrainResult,
    VerifyResult,
)
from multitask_api.stages import Graph, Node, NodeState
from multitask_operator.formatting import counted
from multitask_operator.planner import export_of, training_result_of, verdicts_of
from multitask_operator.report.interference import affinity_of, diagnoses
from multitask_operator.report.mixture_starts import mixture_start
from multitask_operator.report.origin import base_model, base_parameters, data_folders, machines
from multitask_operator.report.report_warnings import report_warnings
from multitask_operator.report.tuning_text import tuning_text


def build_report(
    model: MultiTaskModel, graph: Graph, stage_seconds: Mapping[str, float], now: float | None = None
) -> Report:
    """The report of what is known now.

    ``stage_seconds``: stage → seconds, of the stages that this run ran itself; ``now``: Unix seconds.
    """
    verdicts = verdicts_of(graph)
    export = export_of(graph)
    plans = _group_plans(graph)
    freedom = _degrees_of_freedom(graph)
    served = {item.task: item for item in export.tasks} if export else {}
    tasks = tuple(
        _task(
            task,
            graph.group_of.get(task.name, ""),
            graph,
            verdicts.get(task.name),
            freedom=freedom.get(graph.group_of.get(task.name, ""), 0),
            served=served.get(task.name),
        )
        for task in model.spec.tasks
    )
    threshold = model.spec.qualification.threshold
    report_groups = tuple(_group(plan, graph, model.spec) for plan in plans)
    return Report(
        model=model.metadata.name,
        written=None if now is None else datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        base_model=base_model(model, graph),
        base_parameters=base_parameters(graph),
        data=tuple(data_folders(model)),
        machines=tuple(machines(graph)),
        revision=export.revision if export else None,
        threshold=threshold,
        qualified=sum(task.verdict == "Qualified" for task in tasks),
        confirmed=sum(task.verdict == "Qualified" and task.confirmed for task in tasks),
        total=len(tasks),
        stages=tuple(_stage(node, stage_seconds) for node in graph.nodes),
        groups=report_groups,
        tasks=tasks,
        serving=_agreement(graph),
        ledger=_ledger(graph),
        affinity=affinity_of(graph),
        diagnoses=diagnoses(model, graph),
        warnings=tuple(report_warnings(model, graph, tasks)),
    )


def _stage(node: Node, stage_seconds: Mapping[str, float]) -> ReportStage:
    result = training_result_of(node)
    seconds = stage_seconds.get(node.name, node.manifest.seconds if node.manifest else 0.0)
    base = BaseResult.model_validate(node.manifest.result) if node.kind == "base" and node.manifest else None
    state = _stage_state(node, stage_seconds)
    return ReportStage(
        name=node.name,
        digest=node.digest,
        state=state,
        cached=state == "cached" if state in ("ran", "cached") else None,
        seconds=round(seconds, 3),
        skipped=node.reason if node.state is NodeState.SKIPPED else None,
        tokens=result.tokens if result else base.tokens if base else None,
        steps=result.steps if result else None,
        ended_by=result.ended_by if result else None,
        saved_rows=_saved_rows(node, result),
        curve=result.curve if result else (),
    )


def _saved_rows(node: Node, result: TrainResult | None) -> int | None:
    if result is None or not isinstance(node.parameters, TrainParameters):
        return None
    return max(0, node.parameters.max_steps - result.steps) * node.parameters.optimisation.batch_rows


def _stage_state(node: Node, stage_seconds: Mapping[str, float]) -> Literal["ran", "cached", "skipped", "missing"]:
    if node.state is NodeState.SKIPPED:
        return "skipped"
    if node.state is not NodeState.DONE:
        return "missing"
    return "ran" if node.name in stage_seconds else "cached"


def _group_plans(graph: Graph) -> tuple[GroupPlan, ...]:
    manifest = graph["filter"].manifest
    return FilterResult.model_validate(manifest.result).groups if manifest else ()


def _group(plan: GroupPlan, graph: Graph, spec: MultiTaskModelSpec) -> ReportGroup:
    nodes = [graph[f"high-resource/{plan.name}"], graph[f"mixture/{plan.name}"]]
    results = [training_result_of(node) for node in nodes]
    stage2, stage3 = results
    skipped = nodes[0].state is NodeState.SKIPPED
    given2 = dict(stage2.rows_given) if stage2 else {}
    given3 = dict(stage3.rows_given) if stage3 else {}
    start = mixture_start(nodes[1], spec.qualification.threshold)
    before = stage3.start.rows_given if stage3 and stage3.start else {}
    warnings = list(plan.warnings)
    if start is not None and start.digest is not None:  # the filter counted on a stage 2, and on no rows before it
        needs = tuple(f"{task} needs " for task in plan.need_rows)
        warnings = [text for text in warnings if not text.startswith(needs)]
    if stage3 is not None and stage3.ended_by in (None, "limit"):  # else it stopped because more rows gave no more
        for task, need in plan.need_rows.items():
            given = before.get(task, 0) + given2.get(task, 0) + given3.get(task, 0)
            expected = plan.expected_rows.get(task, need) < need  # the filter has warned about it already
            if given < need and not (expected and not before):
                warnings.append(
                    f"{task} was given {counted(given, 'row')} in stages 2 and 3; its single-task model needed"
                    f" {need:,}. Raise stages.mixture.maxSteps, or let stage 2 train it"
                )
    return ReportGroup(
        name=plan.name,
        tasks=plan.tasks,
        high_resource=() if skipped else plan.high_resource,
        probabilities=plan.probabilities,
        reason=nodes[0].reason if skipped else plan.reason,
        need_rows=plan.need_rows,
        stage2_rows=given2,
        stage3_rows=given3,
        stage2_tokens=stage2.tokens_given if stage2 else {},
        stage3_tokens=stage3.tokens_given if stage3 else {},
        saved_rows=sum(_saved_rows(node, result) or 0 for node, result in zip(nodes, results, strict=True)),
        warnings=tuple(warnings),
        start=start,
        tuning=tuning_text(spec.tuning, plan.tasks),
        trained_weights=(stage3.trainable_parameters or None) if stage3 else None,
    )


def _task(
    task: TaskSpec,
    group: str,
    graph: Graph,
    verdict: TaskVerdict | None,
    *,
    freedom: int,
    served: ServedBy | None,
) -> ReportTask:
    baselines = [result for node in _baselines(graph, task.name) if (result := training_result_of(node))]
    scores = [result.test_score for result in baselines if result.test_score is not None]
    baseline = task.baseline.score if task.baseline else sum(scores) / len(scores) if scores else None
    report = ReportTask(
        name=task.name,
        group=group,
        type=task.type,
        metric=task.resolved_metric,
        rows=_rows(graph, task.name),
        baseline=baseline,
        saturation_steps=_saturation(task, baselines),
        served_by=served.served_by if served else None,
        reason=served.reason if served else "",
        cause=served.cause if served else "",
    )
    if verdict is None:
        return report
    return report.model_copy(
        update={
            "baseline": verdict.baseline if verdict.baseline is not None else baseline,
            "score": verdict.score,
            "ratio": verdict.ratio,
            "interval": verdict.interval,
            "interval_from": _interval_from(verdict, freedom),
            "floor": verdict.floor,
            "verdict": verdict.verdict,
            "confirmed": verdict.confirmed,
            "reason": report.reason or verdict.reason,  # the reason of the route contains that of the verdict
            "cause": report.cause or verdict.cause,
            "overlap_rows": verdict.overlap_rows,
            "ratio_without_overlap": verdict.ratio_without_overlap,
            "interval_without_overlap": verdict.interval_without_overlap,
            "judged_without_overlap": verdict.judged_without_overlap,
        }
    )


def _interval_from(verdict: TaskVerdict, freedom: int) -> Literal["rows", "rows and seeds"] | None:
    """``freedom`` is the group's: all that results of older releases have."""
    if verdict.interval is None:
        return None
    known = freedom if verdict.degrees_of_freedom is None else verdict.degrees_of_freedom
    return "rows and seeds" if known else "rows"


def _degrees_of_freedom(graph: Graph) -> dict[str, int]:
    """Group → degrees of freedom of the variance between baseline seeds; 0: its intervals come from rows alone."""
    done = {node.name.partition("/")[2]: node.manifest for node in graph.of_kind("evaluate") if node.manifest}
    return {
        group: EvaluateResult.model_validate(manifest.result).degrees_of_freedom for group, manifest in done.items()
    }


def _baselines(graph: Graph, task: str) -> list[Node]:
    return [node for node in graph.of_kind("baseline") if node.name.startswith(f"baseline/{task}/")]


def _saturation(task: TaskSpec, baselines: list[TrainResult]) -> int | None:
    """The median over seeds (of an even number the lower one), or what the resource declares."""
    if baselines:
        steps = sorted(result.saturation_step for result in baselines)
        return steps[(len(steps) - 1) // 2]
    return task.baseline.saturation_steps if task.baseline else None


def _rows(graph: Graph, task: str) -> SplitRows:
    manifest = graph[f"prepare/{task}"].manifest
    if manifest is None:
        return SplitRows(train=0, validation=0, test=0)
    return PrepareResult.model_validate(manifest.result).rows


def _agreement(graph: Graph) -> Agreement | None:
    manifest = graph["verify"].manifest if "verify" in graph else None
    if manifest is None:
        return None
    result = VerifyResult.model_validate(manifest.result)
    return Agreement(
        compared=result.compared, equal=result.equal, near_ties=result.near_ties, different=result.different
    )


def _ledger(graph: Graph) -> LedgerResult | None:
    manifest = graph["ledger"].manifest if "ledger" in graph else None
    return LedgerResult.model_validate(manifest.result) if manifest else None
