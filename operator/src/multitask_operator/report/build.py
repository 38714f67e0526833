"""The report of a run, from its graph. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from multitask_api.report import Report, ReportGroup, ReportStage, ReportTask
from multitask_api.resource import MultiTaskModel, TaskSpec
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import (
    Agreement,
    BaseResult,
    EvaluateResult,
    ExportResult,
    FilterResult,
    GroupPlan,
    LedgerResult,
    PrepareResult,
    SplitRows,
    TaskVerdict,
    TrainResult,
    VerifyResult,
)
from multitask_api.stages import Graph, Node, NodeState, groups
from multitask_api.uris import is_builtin
from multitask_operator.planner import export_of, verdicts_of

_TRAINING = ("baseline", "high-resource", "mixture")


def build_report(model: MultiTaskModel, graph: Graph, stage_seconds: Mapping[str, float]) -> Report:
    """The report of what is known now. ``stage_seconds``: stage → seconds, of the stages that this run ran itself."""
    verdicts = verdicts_of(graph)
    export = export_of(graph)
    plans = _group_plans(graph)
    group_of = {task: group for group, tasks in groups(model.spec).items() for task in tasks}
    freedom = _degrees_of_freedom(graph)
    served = {item.task: item for item in export.tasks} if export else {}
    tasks = tuple(
        _task(
            task,
            group_of[task.name],
            graph,
            verdicts.get(task.name),
            freedom=freedom.get(group_of[task.name], 0),
            served_by=served[task.name].served_by if task.name in served else None,
            routing_reason=served[task.name].reason if task.name in served else "",
        )
        for task in model.spec.tasks
    )
    report_groups = tuple(_group(plan, graph) for plan in plans)
    return Report(
        model=model.metadata.name,
        revision=export.revision if export else None,
        threshold=model.spec.qualification.threshold,
        qualified=sum(task.verdict == "Qualified" for task in tasks),
        confirmed=sum(task.verdict == "Qualified" and task.confirmed for task in tasks),
        total=len(tasks),
        stages=tuple(_stage(node, stage_seconds) for node in graph.nodes),
        groups=report_groups,
        tasks=tasks,
        serving=_agreement(graph),
        ledger=_ledger(graph),
        warnings=tuple(_warnings(model, graph, tasks)),
    )


def _stage(node: Node, stage_seconds: Mapping[str, float]) -> ReportStage:
    result = _training_result(node)
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


def _training_result(node: Node) -> TrainResult | None:
    if node.kind in _TRAINING and node.manifest is not None:
        return TrainResult.model_validate(node.manifest.result)
    return None


def _group_plans(graph: Graph) -> tuple[GroupPlan, ...]:
    manifest = graph["filter"].manifest
    return FilterResult.model_validate(manifest.result).groups if manifest else ()


def _group(plan: GroupPlan, graph: Graph) -> ReportGroup:
    nodes = [graph[f"high-resource/{plan.name}"], graph[f"mixture/{plan.name}"]]
    stage2, stage3 = (_training_result(node) for node in nodes)
    given2 = dict(stage2.rows_given) if stage2 else {}
    given3 = dict(stage3.rows_given) if stage3 else {}
    warnings = list(plan.warnings)
    if stage3 is not None and stage3.ended_by in (None, "limit"):  # else it stopped because more rows gave no more
        for task, need in plan.need_rows.items():
            given = given2.get(task, 0) + given3.get(task, 0)
            expected = plan.expected_rows.get(task, need) < need  # the filter has warned about it already
            if given < need and not expected:
                warnings.append(
                    f"{task} was given {given:,} rows in stages 2 and 3; its single-task model needed {need:,}. Raise"
                    " stages.mixture.maxSteps, or let stage 2 train it"
                )
    return ReportGroup(
        name=plan.name,
        tasks=plan.tasks,
        high_resource=plan.high_resource,
        probabilities=plan.probabilities,
        reason=plan.reason,
        need_rows=plan.need_rows,
        stage2_rows=given2,
        stage3_rows=given3,
        stage2_tokens=stage2.tokens_given if stage2 else {},
        stage3_tokens=stage3.tokens_given if stage3 else {},
        saved_rows=sum(_saved_rows(node, _training_result(node)) or 0 for node in nodes),
        warnings=tuple(warnings),
    )


def _task(
    task: TaskSpec,
    group: str,
    graph: Graph,
    verdict: TaskVerdict | None,
    *,
    freedom: int,
    served_by: str | None,
    routing_reason: str,
) -> ReportTask:
    baselines = [result for node in _baselines(graph, task.name) if (result := _training_result(node))]
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
        served_by=served_by,
        reason=routing_reason,
    )
    if verdict is None:
        return report
    return report.model_copy(
        update={
            "baseline": verdict.baseline if verdict.baseline is not None else baseline,
            "score": verdict.score,
            "ratio": verdict.ratio,
            "interval": verdict.interval,
            "interval_from": ("rows and seeds" if freedom else "rows") if verdict.interval else None,
            "floor": verdict.floor,
            "verdict": verdict.verdict,
            "confirmed": verdict.confirmed,
            "reason": routing_reason or verdict.reason,  # the reason of the route contains that of the verdict
            "overlap_rows": verdict.overlap_rows,
            "ratio_without_overlap": verdict.ratio_without_overlap,
        }
    )


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


def _warnings(model: MultiTaskModel, graph: Graph, tasks: tuple[ReportTask, ...]) -> list[str]:
    """What a reader should know before trusting the figures."""
    warnings = list(model.spec.hints())
    for node in graph.nodes:
        if node.manifest is None:
            continue
        if node.kind == "prepare":
            result = PrepareResult.model_validate(node.manifest.result)
            warnings += [f"{node.name}: {text}" for text in result.warnings]
            if result.bad_rows:
                warnings.append(f"{node.name}: {result.bad_rows} bad rows were skipped (data.maxBadRows)")
        elif node.kind == "base":
            warnings += [f"base: {text}" for text in BaseResult.model_validate(node.manifest.result).warnings]
            warnings += frozen_base_notes(model, graph)
        elif node.kind == "export":
            warnings += [f"export: {text}" for text in ExportResult.model_validate(node.manifest.result).warnings]
        elif node.kind == "evaluate":
            warnings += _truncated(node.name, EvaluateResult.model_validate(node.manifest.result).truncated_rows)
        elif (trained := _training_result(node)) is not None:
            warnings += _truncated(node.name, trained.truncated_rows)
            if node.kind == "baseline" and trained.still_improving:
                warnings.append(f"{node.name} was still improving at its last step; raise stages.baseline.maxSteps")
    for task in tasks:
        if task.overlap_rows and task.ratio_without_overlap is not None:
            warnings.append(
                f"{task.name}: {task.overlap_rows} test rows are also in a train split; without them the ratio is"
                f" {task.ratio_without_overlap:.3f}"
            )
    return list(dict.fromkeys(warnings))


def frozen_base_notes(model: MultiTaskModel, graph: Graph) -> list[str]:
    """A note if tasks were added after the base model was made: it does not know their text, and is not made again."""
    manifest = graph["base"].manifest
    pretraining = model.spec.pretraining
    trained = pretraining is not None and pretraining.tasks_text
    if manifest is None or not (trained or is_builtin(model.spec.base_model.uri)):
        return []
    seen = set(BaseResult.model_validate(manifest.result).tasks)
    added = [task.name for task in model.spec.tasks if task.name not in seen]
    if not added:
        return []
    lack = "was not trained on the text of" if trained else "has a tokenizer that was made without the text of"
    field = "baseModel.revision" if pretraining is None else "pretraining.refresh"
    remedy = f"to make it again (and train everything again), change the text of spec.{field}"
    return [f"the base model is kept as it is and {lack} {', '.join(added)}; {remedy}"]


def _truncated(stage: str, rows: Mapping[str, int]) -> list[str]:
    return [
        f"{stage}: {count:,} rows of {task} were longer than training.maxLength and were truncated"
        for task, count in rows.items()
        if count
    ]
