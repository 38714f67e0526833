"""Which tasks of its group hurt a task that is below the threshold, and what to change. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.report import ReportDiagnosis
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.affinity import AffinityResult, CheckResult
from multitask_api.stage_io.results import FilterResult, TrainResult
from multitask_api.stages import Graph, NodeState
from multitask_api.stages.affinity_stages import is_below
from multitask_operator.formatting import listed, number
from multitask_operator.planner import training_result_of, verdicts_of


def affinity_of(graph: Graph) -> AffinityResult | None:
    """What the stage ``affinity`` found; None while it is not done, and under other strategies."""
    manifest = graph["affinity"].manifest if "affinity" in graph else None
    return AffinityResult.model_validate(manifest.result) if manifest else None


def diagnoses(model: MultiTaskModel, graph: Graph) -> tuple[ReportDiagnosis, ...] | None:
    """Of every task below the threshold, in the order of the resource; None without affinities."""
    found = affinity_of(graph)
    return None if found is None else tuple(_diagnoses(model, graph, found))


def diagnosis_text(item: ReportDiagnosis) -> str:
    """What hurts the task, what the check said, and what to do; sentences."""
    sentences = []
    if item.hurting:
        figures = (f"{other} ({mean:.2f} ± {reach:.2f})" for other, (mean, reach) in item.hurting.items())
        sentences.append(f"Hurt by {', '.join(figures)}.")
    if item.check:
        together, apart = item.check.together, item.check.apart
        sentences.append(
            "Two short runs, scored on validation rows:"
            f" {number(together.score)} (loss {number(together.loss)}) with {listed(item.check.without)},"
            f" {number(apart.score)} (loss {number(apart.loss)}) without; one run each."
        )
    return " ".join([*sentences, f"What to do: {item.advice}."])


def _diagnoses(model: MultiTaskModel, graph: Graph, found: AffinityResult) -> Iterator[ReportDiagnosis]:
    for task, verdict in verdicts_of(graph).items():
        group = graph.group_of.get(task)
        if group is None or not is_below(verdict, model.spec):
            continue
        hurting = found.hurting(task, graph.groups[group])
        check = _check(graph, task)
        yield ReportDiagnosis(
            task=task,
            hurting={other: found.between(task, other) for other in hurting},
            check=check,
            advice=_advice(model, graph, task, hurting, check) + _failure(graph, task),
        )


def _check(graph: Graph, task: str) -> CheckResult | None:
    name = f"check/{task}"
    manifest = graph[name].manifest if name in graph else None
    return CheckResult.model_validate(manifest.result) if manifest else None


def _failure(graph: Graph, task: str) -> str:
    """What is said of a check that was to be done and has failed."""
    name = f"check/{task}"
    # A check that was never to run has no digest.
    if name not in graph or graph[name].state is not NodeState.SKIPPED or graph[name].digest is None:
        return ""
    return f"; the short runs of the check have no result: {graph[name].reason}"


def _advice(model: MultiTaskModel, graph: Graph, task: str, hurting: tuple[str, ...], check: CheckResult | None) -> str:
    """One thing to change, by what is known."""
    if not hurting:
        return f"no task of its group surely hurts it by its gradients; {_more_rows(model, graph, task)}"
    names = listed(hurting)
    apart = f"set filtering.strategy: Manual, and give {task} another group than {names}"
    if check is None:
        unchecked = "" if model.spec.filtering.checks else "; filtering.diagnosis.check: true tries it in a short run"
        return f"{apart}{unchecked}"
    if check.confirms:
        return f"it is better without them in a short run: {apart}"
    return f"a short run without {names} is no better, so they are not the cause; {_more_rows(model, graph, task)}"


def _more_rows(model: MultiTaskModel, graph: Graph, task: str) -> str:
    """Whether the sampling of stage 3 is what it lacks."""
    manifest, group = graph["filter"].manifest, graph.group_of[task]
    plan = FilterResult.model_validate(manifest.result).group(group) if manifest else None
    trained = [training_result_of(graph[f"{kind}/{group}"]) for kind in ("high-resource", "mixture")]
    given = sum(_rows_given(result, task) for result in trained if result is not None)
    need = plan.need_rows.get(task) if plan else None
    mixture = model.spec.stages.mixture
    if need is None:
        return (
            f"it was given {given:,} rows, and how many it needs is not known: try a higher stages.mixture.maxSteps, a"
            " higher tuning.rank, or a group of its own"
        )
    if given >= need:
        return (
            "it was given the rows that its single-task model needed: try a higher tuning.rank, or a group of its own"
        )
    rows = f"it was given {given:,} rows in stages 2 and 3, and its single-task model needed {need:,}"
    if plan is not None and plan.probabilities[task] < 1 / len(plan.tasks):
        return (
            f"{rows}: raise stages.mixture.temperature (now {mixture.temperature:g}), or set a lower"
            " stages.mixture.sizeLimit, so that it is drawn more often"
        )
    return f"{rows}: raise stages.mixture.maxSteps"


def _rows_given(result: TrainResult, task: str) -> int:
    """With those of the earlier mixtures that it began with."""
    before = result.start.rows_given if result.start else {}
    return result.rows_given.get(task, 0) + before.get(task, 0)
