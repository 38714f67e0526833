"""Stage ``baseline``: one task's single-task model, its test answers, and how long it took to learn.

``served/`` servable weights · ``scores.parquet`` the test answers · ``weights/`` of adapters, the tuning method's own
format, which other programs read. Nothing reads the fp32 weights of a whole model: bundle, export and ledger take
``served/``. Those of stage 2 and of a mixture are kept, because the next stage goes on from them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import TrainResult
from multitask_api.stages.digests import digest
from multitask_serving.engine.engine import Engine
from multitask_trainer.data.rows import read_rows
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.evaluation.scoring import answer_rows, answer_tasks, score_answers, write_scores
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.runtime.collectives import gather_results
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import Work, main
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.run import checkpoint_digest, train, validation_digest
from multitask_trainer.tuning import tuning_method


def work(stage: StageContext) -> StageOutcome:
    """Train, write servable weights, and answer the test rows with the engine that serves."""
    result = train(stage, stage.parameters(TrainParameters))
    if stage.distributed.has_other_nodes:
        stage.distributed.exit_workers()  # the weights are on this node
    return _served_and_scored(stage, result)


def work_together(stages: Sequence[StageContext]) -> Iterator[tuple[StageContext, Work]]:
    """Train several baselines on one base; gives each as its training ends, with the rest of its work."""
    from multitask_trainer.training.multi_lora.run import train_together  # it needs PEFT, and methods without may train

    for stage, rest in train_together(stages):
        yield stage, partial(_rest, rest)


def _rest(rest: Callable[[], TrainResult], stage: StageContext) -> StageOutcome:
    result = rest()
    return replace(_served_and_scored(stage, result), seconds_before=result.training_seconds)


def _served_and_scored(stage: StageContext, result: TrainResult) -> StageOutcome:
    parameters = stage.parameters(TrainParameters)
    answers = _answer_test_rows(stage, parameters)
    stage.distributed.exit_workers()
    if parameters.tuning.method == "Full":
        shutil.rmtree(stage.artifact_folder / "weights")
    write_scores(stage.artifact_folder / "scores.parquet", answers)
    result = result.model_copy(update={"test_score": score_answers(parameters.tasks[0], answers)})
    return StageOutcome(result, _outputs(stage, result))


def _answer_test_rows(stage: StageContext, parameters: TrainParameters) -> list[Answer]:
    """The processes of a node share the rows; the main process makes the bundle that all of them load."""
    (task,) = parameters.tasks
    accelerator = None
    if stage.distributed.world_size > 1 and not stage.distributed.has_other_nodes:
        accelerator = make_accelerator(
            device=stage.device, threads=stage.order.threads, precision=parameters.optimisation.precision
        )
    is_main_process = stage.distributed.is_main_process
    bundle = gather_results(lambda: _write_bundle(stage, parameters) if is_main_process else Path(), accelerator)[0]
    engine = Engine.load(bundle, device=stage.device, threads=stage.order.threads)
    rows = read_rows(stage.input(f"prepare/{task.name}"), "test")
    if accelerator is None:
        return answer_rows(engine, task, rows, stage.reporter)
    return answer_tasks(engine, [(task, rows)], stage.reporter, accelerator)[task.name].answers


def _write_bundle(stage: StageContext, parameters: TrainParameters) -> Path:
    (task,) = parameters.tasks
    optimisation = parameters.optimisation
    base, served = stage.input("base") / "model", stage.artifact_folder / "served"
    stage.reporter.report("writing servable weights")
    tuning_method(parameters.tuning).write_servable(
        base, stage.artifact_folder / "weights", task.name, served, optimisation.precision
    )
    bundle = stage.scratch_folder / "bundle"
    assemble_bundle(
        bundle,
        base=base,
        servables=[ServableWeights("baseline", served)],
        tasks=[TaskBinding(task, "baseline", served_by="baseline")],
        precision=optimisation.precision,
        max_length=optimisation.max_length,
        chat_template=parameters.chat_template,
        revision=stage.order.digest,
    )
    return bundle


def _outputs(stage: StageContext, result: TrainResult) -> dict[str, str]:
    return {
        "model": content_digest(stage.artifact_folder, ["weights", "served"]),
        "saturation": checkpoint_digest(result),
        "validation": validation_digest(result),
        # The verdict also reads whether the baseline had learnt all it could.
        "scores": digest(
            {"answers": content_digest(stage.artifact_folder, ["scores.parquet"]), "improving": result.still_improving}
        ),
    }


if __name__ == "__main__":
    raise SystemExit(main(work, work_together=work_together))
