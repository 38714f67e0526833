"""Stage ``evaluate``: the engine answers a group's test rows from the bundle's own files, and each task is judged."""

from __future__ import annotations

import json

from multitask_api.stage_io.parameters import EvaluateParameters, TaskDefinition
from multitask_api.stage_io.results import EvaluateResult, PrepareResult, TaskVerdict, TrainResult
from multitask_api.stages.digests import digest
from multitask_serving.engine.engine import Engine
from multitask_trainer.data.rows import Row, read_inputs, read_rows
from multitask_trainer.device import resolve_device
from multitask_trainer.errors import StageError
from multitask_trainer.judging.answers import Answer
from multitask_trainer.judging.evaluation import Material, constant_answer, judge_task
from multitask_trainer.judging.interval import SeedVariance, pooled_seed_variance
from multitask_trainer.judging.overlap import Hashes, seen
from multitask_trainer.judging.scoring import answer_rows, read_scores, truncated_rows, write_scores
from multitask_trainer.stage import Outcome, Stage, run
from multitask_trainer.storage import content_digest, write_atomically


def work(stage: Stage) -> Outcome:
    """Answer, judge, and leave the answers beside the verdicts: ``answers/<task>.parquet``, ``judging.json``."""
    parameters = stage.parameters(EvaluateParameters)
    names = [task.name for task in parameters.tasks]
    engine = Engine.load(
        stage.input("bundle") / "bundle",
        device=resolve_device(stage.order.device),
        threads=stage.order.threads,
        tasks=names,
    )
    seeds = _seed_variance(stage)
    trains = [read_inputs(stage.input(name))["train"] for name in stage.inputs_of("prepare/")]
    verdicts = []
    truncated: dict[str, int] = {}
    for number, task in enumerate(parameters.tasks):
        stage.reporter.report(f"answering {task.name}", step=number, total=len(names))
        rows = read_rows(stage.input(f"prepare/{task.name}"), "test")
        answers = answer_rows(engine, task, rows)
        truncated[task.name] = truncated_rows(engine, task, rows)
        write_scores(stage.folder / "answers" / f"{task.name}.parquet", answers)
        verdicts.append(_judge(stage, parameters, task, answers, seeds, trains))
    rule = {"threshold": parameters.threshold, "rule": parameters.rule}
    write_atomically(stage.folder / "judging.json", json.dumps(rule))
    result = EvaluateResult(
        tasks=tuple(verdicts),
        truncated_rows={name: count for name, count in truncated.items() if count},
        seed_variance=seeds.variance,
        degrees_of_freedom=seeds.degrees_of_freedom,
    )
    return Outcome(result, {"verdicts": digest(result.to_json()), "answers": content_digest(stage.folder, ["answers"])})


def _judge(
    stage: Stage,
    parameters: EvaluateParameters,
    task: TaskDefinition,
    answers: list[Answer],
    seeds: SeedVariance,
    trains: list[Hashes],
) -> TaskVerdict:
    prepare = stage.input(f"prepare/{task.name}")
    counts = PrepareResult.model_validate(stage.manifest_of(f"prepare/{task.name}").result).label_counts
    train: list[Row] = read_rows(prepare, "train") if task.type == "Generation" else []
    runs = stage.inputs_of(f"baseline/{task.name}/")
    baselines = [read_scores(stage.input(name) / "scores.parquet") for name in runs]
    for name, scored in zip(runs, baselines, strict=True):
        if [item.gold for item in scored] != [item.gold for item in answers]:
            raise StageError(f"{name} was scored on other test rows than {task.name} has now; delete it to redo it")
    material = Material(
        task=task,
        answers=answers,
        baselines=baselines,
        declared=parameters.declared_baselines.get(task.name),
        constant=constant_answer(task, counts.get("train", {}), train),
        overlap=seen(read_inputs(prepare)["test"], trains),
        still_improving=any(_result(stage, name).still_improving for name in runs),
    )
    return judge_task(material, seeds=seeds, threshold=parameters.threshold, rule=parameters.rule, seed=parameters.seed)


def _seed_variance(stage: Stage) -> SeedVariance:
    """Pooled over the baselines of every task, also of other groups."""
    scores: dict[str, list[float]] = {}
    for name in stage.inputs_of("baseline/"):
        task = name.split("/")[1]
        found = _result(stage, name).test_score
        if found is not None:
            scores.setdefault(task, []).append(found)
    return pooled_seed_variance(list(scores.values()))


def _result(stage: Stage, name: str) -> TrainResult:
    return TrainResult.model_validate(stage.manifest_of(name).result)


if __name__ == "__main__":
    raise SystemExit(run(work))
