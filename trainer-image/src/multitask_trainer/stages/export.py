"""Stage ``export``: who answers each task, and everything the servers read.

``bundle/`` only the models that answer · ``routes.yaml`` · ``golden.jsonl`` · ``triton/`` the model repository ·
``answers/<task>.parquet`` what each routed task answered to its test rows, by the very weights that are exported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from multitask_api.bundle import Bundle
from multitask_api.stage_io.parameters import ExportParameters, TaskDefinition
from multitask_api.stage_io.results import EvaluateResult, ExportResult, ServedBy, TaskVerdict, TrainResult
from multitask_api.stages.digests import digest
from multitask_serving.engine.engine import Engine
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_trainer.bundling import link_file, revision_of, write_bundle
from multitask_trainer.data.rows import read_rows
from multitask_trainer.device import resolve_device
from multitask_trainer.errors import StageError
from multitask_trainer.exporting import assemble_routed, merge_only_adapter
from multitask_trainer.judging.agreement import NEAR_TIES
from multitask_trainer.judging.routing import BaselineRun, Choice, is_promoted, route_all
from multitask_trainer.judging.scoring import answer_rows, read_scores, score_answers, write_scores
from multitask_trainer.judging.verdict import Rule, still_qualified
from multitask_trainer.precision import Precision
from multitask_trainer.serving_files import golden_lines, routes_yaml
from multitask_trainer.stage import Outcome, Stage, run
from multitask_trainer.storage import write_atomically


def work(stage: Stage) -> Outcome:
    """Route, assemble what is needed, merge where that is safe, and write the servers' files."""
    parameters = stage.parameters(ExportParameters)
    verdicts = _verdicts(stage, parameters.groups)
    runs = {task.name: _runs(stage, task.name) for task in parameters.tasks}
    choices = route_all(list(verdicts.values()), parameters.groups, runs)
    routed = [choice for choice in choices if choice.served_by is not None]
    if not is_promoted(list(verdicts.values()), parameters.promote) or not routed:
        return _not_promoted(choices, "not every task qualified" if routed else "no task is routed")

    stage.reporter.report("assembling")
    folder, base = stage.folder / "bundle", stage.input("base") / "model"
    bundle = assemble_routed(
        folder,
        evaluated=stage.input("bundle") / "bundle",
        base=base,
        routed=routed,
        baseline_form=lambda name: stage.input(name) / "served",
        precision=parameters.precision,
        scratch=stage.scratch / "forms",
    )
    merged = None
    if all(verdict.verdict == "Qualified" for verdict in verdicts.values()):
        merged = merge_only_adapter(bundle, folder, base, parameters.precision)
    bundle = merged or bundle
    bundle = bundle.model_copy(update={"revision": revision_of(folder, bundle.models, bundle.tasks)})
    write_bundle(folder, bundle)

    _keep_answers(stage, routed, parameters.groups)
    if merged is not None:
        _score_again(stage, parameters, verdicts)
    _write_serving_files(stage, parameters.model, bundle, parameters.precision)
    return Outcome(_result(bundle, choices), {"bundle": bundle.revision})


def _verdicts(stage: Stage, groups: Mapping[str, Sequence[str]]) -> dict[str, TaskVerdict]:
    results = [EvaluateResult.model_validate(stage.manifest_of(f"evaluate/{group}").result) for group in groups]
    return {verdict.task: verdict for result in results for verdict in result.tasks}


def _runs(stage: Stage, task: str) -> list[BaselineRun]:
    """The task's trained baselines, with the validation score that chose their checkpoint."""
    found = []
    for name in stage.inputs_of(f"baseline/{task}/"):
        result = TrainResult.model_validate(stage.manifest_of(name).result)
        found.append(BaselineRun(name, result.validation[task].score))
    return found


def _not_promoted(choices: Sequence[Choice], why: str) -> Outcome:
    """Nothing is written: what serves now goes on serving."""
    tasks = tuple(
        ServedBy(task=choice.task, served_by=None, reason=f"nothing is exported, {why}; {choice.reason}")
        for choice in choices
    )
    result = ExportResult(revision="", tasks=tasks, models={}, promoted=False)
    return Outcome(result, {"bundle": digest({"promoted": False})})


def _keep_answers(stage: Stage, routed: Sequence[Choice], groups: Mapping[str, Sequence[str]]) -> None:
    """Beside the bundle, for golden requests and for comparing what is served with what was measured."""
    group_of = {task: group for group, tasks in groups.items() for task in tasks}
    for choice in routed:
        if choice.stage is not None:
            source = stage.input(choice.stage) / "scores.parquet"
        else:
            source = stage.input(f"evaluate/{group_of[choice.task]}") / "answers" / f"{choice.task}.parquet"
        link_file(source, _answers_of(stage, choice.task))


def _score_again(stage: Stage, parameters: ExportParameters, verdicts: Mapping[str, TaskVerdict]) -> None:
    """Merging changed the weights: every task answers its test rows once more. Raises if a verdict would change."""
    device = resolve_device(stage.order.device)
    engine = Engine.load(stage.folder / "bundle", device=device, threads=stage.order.threads)
    group_of = {task: group for group, tasks in parameters.groups.items() for task in tasks}
    for task in parameters.tasks:
        stage.reporter.report(f"scoring {task.name} with merged weights")
        answers = answer_rows(engine, task, read_rows(stage.input(f"prepare/{task.name}"), "test"))
        path = _answers_of(stage, task.name)
        path.unlink()  # a link to the evaluation's own file
        write_scores(path, answers)
        judging = json.loads((stage.input(f"evaluate/{group_of[task.name]}") / "judging.json").read_text("utf-8"))
        _check_verdict(task, verdicts[task.name], score_answers(task, answers), judging)


def _check_verdict(task: TaskDefinition, verdict: TaskVerdict, found: float, judging: Mapping[str, object]) -> None:
    if verdict.ratio is None or verdict.interval is None or found == verdict.score:
        return
    threshold = float(str(judging["threshold"]))
    rule: Rule = "LowerBound" if judging["rule"] == "LowerBound" else "Point"
    if not still_qualified(verdict.ratio, verdict.interval, found / verdict.score, threshold=threshold, rule=rule):
        raise StageError(
            f"task {task.name}: with its adapter merged it scores {found:.4f} instead of {verdict.score:.4f} and "
            "no longer qualifies. Use training.precision fp32, or give one task a group of its own (two adapters "
            "are not merged)"
        )


def _write_serving_files(stage: Stage, model: str, bundle: Bundle, precision: Precision) -> None:
    write_atomically(stage.folder / "routes.yaml", routes_yaml(bundle, model))
    lines = []
    for task in bundle.tasks:
        rows = read_rows(stage.input(f"prepare/{task.name}"), "test")
        lines += golden_lines(task, rows, read_scores(_answers_of(stage, task.name)), NEAR_TIES[precision])
    write_atomically(stage.folder / "golden.jsonl", "".join(lines))
    settings = ModelSettings(device=resolve_device(stage.order.device))
    # Relative to triton/multitask, so that the exported folder can be moved.
    write_repository("../../bundle", stage.folder / "triton", settings)


def _answers_of(stage: Stage, task: str) -> Path:
    return stage.folder / "answers" / f"{task}.parquet"


def _result(bundle: Bundle, choices: Sequence[Choice]) -> ExportResult:
    served = {task.name: task for task in bundle.tasks}
    return ExportResult(
        revision=bundle.revision,
        tasks=tuple(
            ServedBy(
                task=choice.task,
                served_by=choice.served_by,
                model=served[choice.task].model if choice.task in served else None,
                adapter=served[choice.task].adapter if choice.task in served else None,
                reason=choice.reason,
            )
            for choice in choices
        ),
        models={model.name: model.bytes for model in bundle.models},
    )


if __name__ == "__main__":
    raise SystemExit(run(work))
