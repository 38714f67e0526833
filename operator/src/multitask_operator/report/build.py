"""The report of a run, from its graph. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from multitask_api.report import Report, ReportGroup, ReportStage, ReportTask
from multitask_api.resource import MultiTaskModel, TaskSpec
from multitask_api.stage_io.results import (
    Agreement,
    BaseResult,
    EvaluateResult,
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


def build_report(model: MultiTaskModel, graph: Graph, ran: Mapping[str, float]) -> Report:
    """What is known now; ``ran``: stage → seconds, of the stages that this run ran (the others were there)."""
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
            why=served[task.name].reason if task.name in served else "",
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
        stages=tuple(_stage(node, ran) for node in graph.nodes),
        groups=report_groups,
        tasks=tasks,
        serving=_agreement(graph),
        ledger=_ledger(graph),
        warnings=tuple(_warnings(model, graph, tasks)),
    )


def _stage(node: Node, ran: Mapping[str, float]) -> ReportStage:
    result = _training_result(node)
    seconds = ran.get(node.name, node.manifest.seconds if node.manifest else 0.0)
    base = BaseResult.model_validate(node.manifest.result) if node.kind == "base" and node.manifest else None
    return ReportStage(
        name=node.name,
        digest=node.digest,
        cached=node.state is NodeState.DONE and node.name not in ran,
        seconds=round(seconds, 3),
        skipped=node.reason if node.state is NodeState.SKIPPED else None,
        tokens=result.tokens if result else base.tokens if base else None,
        curve=result.curve if result else (),
    )


def _training_result(node: Node) -> TrainResult | None:
    if node.kind in _TRAINING and node.manifest is not None:
        return TrainResult.model_validate(node.manifest.result)
    return None


def _group_plans(graph: Graph) -> tuple[GroupPlan, ...]:
    manifest = graph["filter"].manifest
    return FilterResult.model_validate(manifest.result).groups if manifest else ()


def _group(plan: GroupPlan, graph: Graph) -> ReportGroup:
    stage2, stage3 = (
        _training_result(graph[f"high-resource/{plan.name}"]),
        _training_result(graph[f"mixture/{plan.name}"]),
    )
    given2 = dict(stage2.rows_given) if stage2 else {}
    given3 = dict(stage3.rows_given) if stage3 else {}
    warnings = list(plan.warnings)
    if stage3 is not None:
        for task, need in plan.need_rows.items():
            given = given2.get(task, 0) + given3.get(task, 0)
            foreseen = plan.expected_rows.get(task, need) < need  # then the filter has warned already
            if given < need and not foreseen:
                warnings.append(
                    f"{task} was given {given:,} rows in stages 2 and 3; alone it needed {need:,}. Raise"
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
    why: str,
) -> ReportTask:
    baselines = [found for node in _baselines(graph, task.name) if (found := _training_result(node))]
    scores = [found.test_score for found in baselines if found.test_score is not None]
    baseline = task.baseline.score if task.baseline else sum(scores) / len(scores) if scores else None
    known = ReportTask(
        name=task.name,
        group=group,
        type=task.type,
        metric=task.resolved_metric,
        rows=_rows(graph, task.name),
        baseline=baseline,
        saturation_steps=_saturation(task, baselines),
        served_by=served_by,
        reason=why,
    )
    if verdict is None:
        return known
    return known.model_copy(
        update={
            "baseline": verdict.baseline if verdict.baseline is not None else baseline,
            "score": verdict.score,
            "ratio": verdict.ratio,
            "interval": verdict.interval,
            "interval_from": ("rows and seeds" if freedom else "rows") if verdict.interval else None,
            "floor": verdict.floor,
            "verdict": verdict.verdict,
            "confirmed": verdict.confirmed,
            "reason": why or verdict.reason,  # who routes repeats the verdict's reason
            "overlap_rows": verdict.overlap_rows,
            "ratio_without_overlap": verdict.ratio_without_overlap,
        }
    )


def _degrees_of_freedom(graph: Graph) -> dict[str, int]:
    """Group → those of the variance between baseline seeds in its intervals; 0: the intervals are from rows alone."""
    done = {node.name.partition("/")[2]: node.manifest for node in graph.of_kind("evaluate") if node.manifest}
    return {group: EvaluateResult.model_validate(it.result).degrees_of_freedom for group, it in done.items()}


def _baselines(graph: Graph, task: str) -> list[Node]:
    return [node for node in graph.of_kind("baseline") if node.name.startswith(f"baseline/{task}/")]


def _saturation(task: TaskSpec, baselines: list[TrainResult]) -> int | None:
    """The median over seeds (the lower one of two), or what the resource declares."""
    if baselines:
        steps = sorted(found.saturation_step for found in baselines)
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
    found = VerifyResult.model_validate(manifest.result)
    return Agreement(compared=found.compared, equal=found.equal, near_ties=found.near_ties, different=found.different)


def _ledger(graph: Graph) -> LedgerResult | None:
    manifest = graph["ledger"].manifest if "ledger" in graph else None
    return LedgerResult.model_validate(manifest.result) if manifest else None


def _warnings(model: MultiTaskModel, graph: Graph, tasks: tuple[ReportTask, ...]) -> list[str]:
    """What a reader should know before trusting the figures."""
    found = list(model.spec.hints())
    for node in graph.nodes:
        if node.manifest is None:
            continue
        if node.kind == "prepare":
            result = PrepareResult.model_validate(node.manifest.result)
            found += [f"{node.name}: {text}" for text in result.warnings]
            if result.bad_rows:
                found.append(f"{node.name}: {result.bad_rows} bad rows were left out (data.maxBadRows)")
        elif node.kind == "base":
            found += [f"base: {text}" for text in BaseResult.model_validate(node.manifest.result).warnings]
            found += frozen_base_notes(model, graph)
        elif node.kind == "evaluate":
            found += _truncated(node.name, EvaluateResult.model_validate(node.manifest.result).truncated_rows)
        elif (trained := _training_result(node)) is not None:
            found += _truncated(node.name, trained.truncated_rows)
            if node.kind == "baseline" and trained.still_improving:
                found.append(f"{node.name} was still improving at its limit; raise stages.baseline.maxSteps")
    for task in tasks:
        if task.overlap_rows and task.ratio_without_overlap is not None:
            found.append(
                f"{task.name}: {task.overlap_rows} test rows stand in a train split; without them the ratio is"
                f" {task.ratio_without_overlap:.3f}"
            )
    return list(dict.fromkeys(found))


def frozen_base_notes(model: MultiTaskModel, graph: Graph) -> list[str]:
    """Tasks that came after the base was made: it has not seen their text, and stays as it is."""
    manifest = graph["base"].manifest
    pretraining = model.spec.pretraining
    trained = pretraining is not None and pretraining.tasks_text
    if manifest is None or not (trained or is_builtin(model.spec.base_model.uri)):
        return []
    seen = set(BaseResult.model_validate(manifest.result).tasks)
    late = [task.name for task in model.spec.tasks if task.name not in seen]
    if not late:
        return []
    lacks = "has not seen the text of" if trained else "has a tokenizer that was made without the text of"
    field = "baseModel.revision" if pretraining is None else "pretraining.refresh"
    change = f"to make it anew (and train everything again), set spec.{field} to another text"
    return [f"the base is frozen and {lacks} {', '.join(late)}; {change}"]


def _truncated(where: str, rows: Mapping[str, int]) -> list[str]:
    return [
        f"{where}: {count:,} rows of {task} were longer than training.maxLength and were cut"
        for task, count in rows.items()
        if count
    ]
