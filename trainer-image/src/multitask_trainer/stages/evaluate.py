"""Stage ``evaluate``: the engine answers a group's test rows from the bundle's own files; each task gets a verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from multitask_api.stage_io.parameters import EvaluateParameters, TaskDefinition
from multitask_api.stage_io.results import EvaluateResult, PrepareResult, TaskVerdict, TrainResult
from multitask_api.stages.digests import digest
from multitask_api.stages.group_models import OWN_BASELINE
from multitask_serving.engine.engine import Engine
from multitask_trainer.data.rows import Row, read_inputs, read_rows
from multitask_trainer.errors import StageError
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.evaluation.overlap import Hashes, Overlap, overlapping_rows
from multitask_trainer.evaluation.qualification import EvaluationInputs, constant_answer, evaluate_task
from multitask_trainer.evaluation.scoring import TaskAnswers, answer_tasks, read_scores, write_scores
from multitask_trainer.evaluation.verdict import overlap_note
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import content_digest, write_atomically
from multitask_trainer.training.accelerator import make_accelerator


def work(stage: StageContext) -> StageOutcome:
    """Answer, evaluate, and leave ``answers/<task>.parquet`` and ``judging.json`` (threshold and rule)."""
    parameters = stage.parameters(EvaluateParameters)
    answered = _answer_test_rows(stage, parameters.tasks)
    stage.distributed.exit_workers()
    seed_scores = _seed_scores(stage)
    trains = [read_inputs(stage.input(name))["train"] for name in stage.input_names("prepare/")]
    own = _own_baseline(stage, parameters.group)
    verdicts = []
    for task in parameters.tasks:
        answers = answered[task.name].answers
        write_scores(stage.artifact_folder / "answers" / f"{task.name}.parquet", answers)
        verdicts.append(_evaluate(stage, parameters, task, answers, seed_scores, trains, own))
    rule = {"threshold": parameters.threshold, "rule": parameters.rule}
    write_atomically(stage.artifact_folder / "judging.json", json.dumps(rule))
    result = EvaluateResult(
        tasks=tuple(verdicts),
        truncated_rows={name: found.truncated for name, found in answered.items() if found.truncated},
        degrees_of_freedom=sum(len(scores) - 1 for scores in seed_scores.values()),
    )
    return StageOutcome(
        result, {"verdicts": digest(result.to_json()), "answers": content_digest(stage.artifact_folder, ["answers"])}
    )


def _answer_test_rows(stage: StageContext, tasks: Sequence[TaskDefinition]) -> dict[str, TaskAnswers]:
    """The answers of all tasks; the processes share the rows."""
    accelerator = None
    if stage.distributed.world_size > 1:
        accelerator = make_accelerator(device=stage.device, threads=stage.order.threads, precision="fp32")
    engine = Engine.load(
        stage.input("bundle") / "bundle",
        device=stage.device,
        threads=stage.order.threads,
        tasks=[task.name for task in tasks],
    )
    rows = [(task, read_rows(stage.input(f"prepare/{task.name}"), "test")) for task in tasks]
    return answer_tasks(engine, rows, stage.reporter, accelerator)


def _evaluate(
    stage: StageContext,
    parameters: EvaluateParameters,
    task: TaskDefinition,
    answers: list[Answer],
    seed_scores: Mapping[str, list[float]],
    trains: list[Hashes],
    own: str | None,
) -> TaskVerdict:
    prepare = stage.input(f"prepare/{task.name}")
    counts = PrepareResult.model_validate(stage.input_manifest(f"prepare/{task.name}").result).label_counts
    train: list[Row] = read_rows(prepare, "train") if task.type == "Generation" else []
    runs = [own] if own else stage.input_names(f"baseline/{task.name}/")
    baselines = [read_scores(stage.input(name) / "scores.parquet") for name in runs]
    for name, scored in zip(runs, baselines, strict=True):
        if [item.gold for item in scored] != [item.gold for item in answers]:
            raise StageError(f"{name} was scored on other test rows than {task.name} has now; delete it to redo it")
    inputs = EvaluationInputs(
        task=task,
        answers=answers,
        baselines=baselines,
        declared=parameters.declared_baselines.get(task.name),
        constant=constant_answer(task, counts.get("train", {}), train),
        overlap=overlapping_rows(read_inputs(prepare)["test"], trains),
        still_improving=any(_train_result(stage, name).still_improving for name in runs),
    )
    verdict = evaluate_task(
        inputs,
        # A model compared with itself has no spread between seeds, and needs none for the rule.
        other_seeds=() if own else [scores for name, scores in seed_scores.items() if name != task.name],
        threshold=parameters.threshold,
        rule="Point" if own else parameters.rule,
        seed=parameters.seed,
    )
    if own and verdict.verdict == "Qualified":
        reason = f"{task.name} is alone in its group: {OWN_BASELINE}{overlap_note(Overlap.of(inputs.overlap))}"
        return verdict.model_copy(update={"reason": reason})
    return verdict


def _own_baseline(stage: StageContext, group: str) -> str | None:
    """The baseline that stands in the bundle in the place of the group's mixture; None if there is a mixture."""
    model = stage.input_manifest("bundle").read_outputs.get(f"mixture/{group}#model")
    names = stage.input_names("baseline/")
    return next((name for name in names if stage.input_manifest(name).outputs.get("model") == model), None)


def _seed_scores(stage: StageContext) -> dict[str, list[float]]:
    """Task → test scores of its baseline's seeds; of the group's tasks, which are what this evaluation reads."""
    scores: dict[str, list[float]] = {}
    for name in stage.input_names("baseline/"):
        task = name.split("/")[1]
        score = _train_result(stage, name).test_score
        if score is not None:
            scores.setdefault(task, []).append(score)
    return scores


def _train_result(stage: StageContext, name: str) -> TrainResult:
    return TrainResult.model_validate(stage.input_manifest(name).result)


if __name__ == "__main__":
    raise SystemExit(main(work))
