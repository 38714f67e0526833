"""Stage ``export``: who answers each task, and everything the servers read.

``bundle/`` only the models that answer · ``routes.yaml`` · ``golden.jsonl`` · ``triton/`` the model repository ·
``answers/<task>.parquet`` the answers of each routed task to its test rows, by the weights that are exported.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from multitask_api.bundle import Bundle
from multitask_api.errors import RetryableError
from multitask_api.stage_io.parameters import ExportParameters, TaskDefinition
from multitask_api.stage_io.results import EvaluateResult, ExportResult, ServedBy, TaskVerdict, TrainResult
from multitask_api.stages.digests import digest
from multitask_api.types import JsonObject
from multitask_serving.engine.engine import Engine
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_trainer.base_model.loading import Precision
from multitask_trainer.data.rows import read_rows
from multitask_trainer.errors import MergeChangesModel
from multitask_trainer.evaluation.agreement import NEAR_TIES
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.evaluation.routing import BaselineRun, RoutingDecision, is_promoted, route_all
from multitask_trainer.evaluation.scoring import answer_rows, read_scores, score_answers, write_scores
from multitask_trainer.evaluation.verdict import Rule, still_qualified
from multitask_trainer.export.bundle import bundle_revision, write_bundle
from multitask_trainer.export.routed_bundle import assemble_routed_bundle, merge_only_adapter
from multitask_trainer.export.serving_files import golden_lines, routes_yaml
from multitask_trainer.export.weights import link_file
from multitask_trainer.runtime.context import ACCELERATOR, StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import write_atomically


def work(stage: StageContext) -> StageOutcome:
    """Route, assemble what is needed, merge where that is safe, and write the servers' files."""
    parameters = stage.parameters(ExportParameters)
    verdicts = _verdicts(stage, parameters.groups)
    runs = {task.name: _runs(stage, task.name) for task in parameters.tasks}
    decisions = route_all(list(verdicts.values()), parameters.groups, runs)
    routed = [decision for decision in decisions if decision.served_by is not None]
    if not is_promoted(list(verdicts.values()), parameters.promote) or not routed:
        return _not_promoted(decisions, "not every task qualified" if routed else "no task is routed")

    stage.reporter.report("assembling")
    folder, base = stage.artifact_folder / "bundle", stage.input("base") / "model"
    bundle = assemble_routed_bundle(
        folder,
        evaluated=stage.input("bundle") / "bundle",
        base=base,
        routed=routed,
        baseline_servable=lambda name: stage.input(name) / "served",
        precision=parameters.precision,
        scratch=stage.scratch_folder / "servables",
    )
    _link_answers(stage, routed, parameters.groups)
    devices = {decision.task: _device(stage, _answering_stage(decision, parameters.groups)) for decision in routed}
    warnings: list[str] = []
    merged = False
    if all(verdict.verdict == "Qualified" for verdict in verdicts.values()):
        bundle, warnings, merged = _merge_where_safe(stage, parameters, verdicts, bundle)
    bundle = bundle.model_copy(update={"revision": bundle_revision(folder, bundle.models, bundle.tasks)})
    write_bundle(folder, bundle)
    if merged:
        devices = dict.fromkeys(devices, stage.accelerator)
    _write_serving_files(stage, parameters.model, bundle, parameters.precision, devices)
    return StageOutcome(_result(bundle, decisions, warnings), {"bundle": bundle.revision})


def _verdicts(stage: StageContext, groups: Mapping[str, Sequence[str]]) -> dict[str, TaskVerdict]:
    results = [EvaluateResult.model_validate(stage.input_manifest(f"evaluate/{group}").result) for group in groups]
    return {verdict.task: verdict for result in results for verdict in result.tasks}


def _runs(stage: StageContext, task: str) -> list[BaselineRun]:
    """The task's trained baselines, with the validation score that chose their checkpoint."""
    runs = []
    for name in stage.input_names(f"baseline/{task}/"):
        result = TrainResult.model_validate(stage.input_manifest(name).result)
        runs.append(BaselineRun(name, result.validation[task].score))
    return runs


def _not_promoted(decisions: Sequence[RoutingDecision], reason: str) -> StageOutcome:
    """The outcome without a bundle: the revision that is served now stays."""
    tasks = tuple(
        ServedBy(
            task=decision.task,
            served_by=None,
            reason=f"nothing is exported, {reason}; {decision.reason}",
            cause="NotPromoted",
        )
        for decision in decisions
    )
    result = ExportResult(revision="", tasks=tasks, models={}, promoted=False)
    return StageOutcome(result, {"bundle": digest({"promoted": False})})


def _link_answers(stage: StageContext, routed: Sequence[RoutingDecision], groups: Mapping[str, Sequence[str]]) -> None:
    """Beside the bundle, for golden requests and for comparing what is served with what was measured."""
    for decision in routed:
        folder = stage.input(_answering_stage(decision, groups))
        source = folder / ("scores.parquet" if decision.stage is not None else f"answers/{decision.task}.parquet")
        link_file(source, _answers_file(stage, decision.task))


def _answering_stage(decision: RoutingDecision, groups: Mapping[str, Sequence[str]]) -> str:
    """The stage that has the answers of the task: that of its baseline, or the evaluation of its group."""
    if decision.stage is not None:
        return decision.stage
    return next(f"evaluate/{group}" for group, tasks in groups.items() if decision.task in tasks)


def _device(stage: StageContext, source: str) -> str | None:
    """What computed the answers of a stage; None: an older release did not record it."""
    environment = stage.input_manifest(source).environment
    return environment.get(ACCELERATOR) or ("cpu" if environment.get("device") == "cpu" else None)


def _merge_where_safe(
    stage: StageContext, parameters: ExportParameters, verdicts: Mapping[str, TaskVerdict], bundle: Bundle
) -> tuple[Bundle, list[str], bool]:
    """The bundle with its only adapter merged; or, where that fails or changes an answer too much, as it is and why.

    The last value is whether it is merged.

    Merging changes the weights by rounding, so every task answers its test rows once more.
    """
    folder, target = stage.artifact_folder / "bundle", stage.scratch_folder / "merged"
    answers: dict[str, list[Answer]] = {}
    try:
        merged = merge_only_adapter(bundle, folder, stage.input("base") / "model", parameters.precision, target)
        if merged is None:
            return bundle, [], False
        engine = Engine.load(target, device=stage.device, threads=stage.order.threads)
        group_of = {task: group for group, tasks in parameters.groups.items() for task in tasks}
        for task in parameters.tasks:
            rows = read_rows(stage.input(f"prepare/{task.name}"), "test")
            answers[task.name] = answer_rows(engine, task, rows, stage.reporter)
            settings = json.loads((stage.input(f"evaluate/{group_of[task.name]}") / "judging.json").read_text("utf-8"))
            _check_verdict(task, verdicts[task.name], score_answers(task, answers[task.name]), settings)
    except (RetryableError, OSError):
        raise  # of the machine, not of the merged model
    except Exception as error:  # noqa: BLE001  whatever the merged files raise: what qualified is base and adapter
        problem = str(error)
        if not isinstance(error, MergeChangesModel):
            problem = (
                f"the merged model cannot be used ({type(error).__name__}: {error}); the adapter is served unmerged"
            )
        sys.stderr.write(f"{stage.order.stage}: {problem}\n")
        return bundle, [problem], False
    shutil.rmtree(folder)
    shutil.move(target, folder)
    for name, scored in answers.items():
        path = _answers_file(stage, name)
        path.unlink()  # a link to the evaluation's own file
        write_scores(path, scored)
    return merged, [], True


def _check_verdict(task: TaskDefinition, verdict: TaskVerdict, score: float, settings: JsonObject) -> None:
    ratio, interval = verdict.judged_ratio, verdict.judged_interval
    if ratio is None or interval is None or score == verdict.score:
        return
    threshold = float(settings["threshold"])
    rule: Rule = "LowerBound" if settings["rule"] == "LowerBound" else "Point"
    if not still_qualified(ratio, interval, score / verdict.score, threshold=threshold, rule=rule):
        raise MergeChangesModel(
            f"task {task.name}: with its adapter merged it scores {score:.4f} instead of {verdict.score:.4f} and would "
            "no longer qualify, so the adapter is served unmerged; with training.precision fp32 it may be merged"
        )


def _write_serving_files(
    stage: StageContext, model: str, bundle: Bundle, precision: Precision, devices: Mapping[str, str | None]
) -> None:
    write_atomically(stage.artifact_folder / "routes.yaml", routes_yaml(bundle, model))
    lines = []
    for task in bundle.tasks:
        rows = read_rows(stage.input(f"prepare/{task.name}"), "test")
        answers = read_scores(_answers_file(stage, task.name))
        lines += golden_lines(task, rows, answers, NEAR_TIES[precision], devices[task.name])
    write_atomically(stage.artifact_folder / "golden.jsonl", "".join(lines))
    settings = ModelSettings(device=stage.device)
    # Relative to triton/multitask, so that the exported folder can be moved.
    write_repository("../../bundle", stage.artifact_folder / "triton", settings)


def _answers_file(stage: StageContext, task: str) -> Path:
    return stage.artifact_folder / "answers" / f"{task}.parquet"


def _result(bundle: Bundle, decisions: Sequence[RoutingDecision], warnings: Sequence[str]) -> ExportResult:
    served = {task.name: task for task in bundle.tasks}
    return ExportResult(
        revision=bundle.revision,
        tasks=tuple(
            ServedBy(
                task=decision.task,
                served_by=decision.served_by,
                model=served[decision.task].model if decision.task in served else None,
                adapter=served[decision.task].adapter if decision.task in served else None,
                reason=decision.reason,
                cause=decision.cause,
            )
            for decision in decisions
        ),
        models={model.name: model.bytes for model in bundle.models},
        warnings=tuple(warnings),
    )


if __name__ == "__main__":
    raise SystemExit(main(work))
