"""The training stages as processes: what they leave, and that a killed one ends with the same weights."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multitask_api.bundle import PromptFormat
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import StageFailure
from multitask_api.stage_io.results import BaseResult, TrainResult
from multitask_trainer.base_model.loading import read_prompt_format
from multitask_trainer.data.rows import write_rows
from multitask_trainer.evaluation.scoring import read_scores
from multitask_trainer.storage.files import content_digest
from support.training_fixtures import (
    TASKS,
    TrainingSuite,
    base_parameters,
    optimisation,
    pretraining,
    rows,
    train_parameters,
)

pytestmark = pytest.mark.integration

EXIT_USER_ERROR, EXIT_RETRYABLE = 2, 75


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> TrainingSuite:
    training_suite = TrainingSuite(tmp_path_factory.mktemp("suite"))
    training_suite.run(training_suite.order("base", base_parameters(pretraining=pretraining())))
    return training_suite


def result(suite: TrainingSuite, stage: str) -> TrainResult:
    return TrainResult.model_validate(suite.manifest(stage).result)


def weights(suite: TrainingSuite, stage: str) -> str:
    return content_digest(suite.artifact(stage), ["weights", "served", "model"])


def interrupt(
    suite: TrainingSuite, order: Path, when: Callable[[], bool], by: signal.Signals
) -> subprocess.CompletedProcess[str]:
    """Start a stage, and send a signal once ``when`` holds."""
    process = suite.start(order)
    try:
        while not when():
            assert process.poll() is None, f"the stage ended before it could be interrupted: {process.communicate()}"
            time.sleep(0.005)
        process.send_signal(by)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def test_the_base_has_a_tokenizer_of_the_tasks_text_and_learns_it(suite):
    base_result = BaseResult.model_validate(suite.manifest("base").result)
    assert base_result.steps == 20
    assert base_result.tasks == tuple(TASKS)
    assert base_result.tokens == 20 * 16 * 48
    assert base_result.last_loss < 0.7 * base_result.first_loss
    assert 259 < base_result.vocabulary <= 512
    kept = read_prompt_format(suite.artifact("base") / "model")
    assert kept == base_result.prompt_format == PromptFormat(prefix=(1,), seams="Joined")


def test_tasks_text_shorter_than_a_block_is_told_where_a_corpus_fills_the_batches(tmp_path):
    suite = TrainingSuite(tmp_path)
    write_rows(suite.artifact("prepare/kind"), "train", rows("kind", 2, 0))
    (tmp_path / "corpus.jsonl").write_text('{"text": "plums and pears, saws and axes"}\n' * 200)
    more = pretraining(maxSteps=2, corpus=[{"uri": "corpus.jsonl"}])
    suite.run(suite.order("base", base_parameters(pretraining=more, tasks=(TASKS["kind"],))))
    warnings = BaseResult.model_validate(suite.manifest("base").result).warnings
    assert [text.split(" is ")[0] for text in warnings] == ["pretraining: the tasks' text"]


@pytest.mark.parametrize("stage", ["base/long", "baseline/long"])
def test_rows_longer_than_the_base_takes_are_refused(suite, stage):
    """By the base too: one on the hub is known only then. By training, because the base may be there already."""
    long = optimisation(max_length=4097)
    parameters = (
        base_parameters(optimisation=long) if stage == "base/long" else train_parameters("baseline", optimisation=long)
    )
    process = suite.start(suite.order(stage, parameters))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == EXIT_USER_ERROR, errors
    failure = StageFailure.model_validate_json((suite.work(stage) / "failure.json").read_text())
    assert failure.message == (
        "training.maxLength: 4097 tokens are more than the base model takes, 4096 (its max_position_embeddings); lower"
        " training.maxLength to 4096 or less, or use another base model"
    )


def test_a_baseline_learns_its_task_and_answers_its_test_rows_with_the_engine(suite):
    suite.run(suite.order("baseline/kind", train_parameters("baseline", max_steps=100)))
    trained = result(suite, "baseline/kind")
    assert trained.test_score > 0.9
    answers = read_scores(suite.artifact("baseline/kind") / "scores.parquet")
    assert [answer.gold for answer in answers] == [(row.label,) for row in rows("kind", 60, 2)]
    assert sum(answer.score for answer in answers) / 60 == trained.test_score
    assert not (suite.artifact("baseline/kind") / "weights").exists(), "nothing reads fp32 weights of a whole model"
    assert (suite.artifact("baseline/kind") / "served" / "model" / "model.safetensors").exists()
    assert set(suite.manifest("baseline/kind").outputs) == {"model", "saturation", "validation", "scores"}
    assert trained.rows_given == {"kind": trained.steps * 16}
    assert trained.tokens_given == {"kind": trained.tokens}
    assert trained.chosen_step in {point.step for point in trained.curve}
    assert trained.validation["kind"].score == max(point.tasks["kind"].score for point in trained.curve)


def test_a_generation_baseline_is_scored_on_whole_answers(suite):
    suite.run(suite.order("baseline/repeat", train_parameters("baseline", ["repeat"], max_steps=60)))
    assert result(suite, "baseline/repeat").test_score is not None


@pytest.mark.parametrize("tuning", [{"method": "Full"}, {"method": "LoRA", "rank": 4, "dropout": 0.2}])
def test_a_killed_run_ends_with_the_very_weights_of_an_uninterrupted_one(suite, tuning):
    name = str(tuning["method"])
    parameters = train_parameters(
        "baseline", tuning=Tuning.model_validate(tuning), optimisation=optimisation(eval_every=7), max_steps=80
    )
    suite.run(suite.order(f"baseline/{name}-whole", parameters))
    stage = f"baseline/{name}-killed"
    order, checkpoint = suite.order(stage, parameters), suite.work(stage) / "checkpoint"
    # Twice: as soon as there is a checkpoint, and further on.
    for when in (lambda: _after(checkpoint, 0), lambda: _after(checkpoint, 7)):
        assert interrupt(suite, order, when, signal.SIGKILL).returncode == -signal.SIGKILL
    assert "resuming after step" in suite.run(order)
    assert weights(suite, stage) == weights(suite, f"baseline/{name}-whole")
    whole, resumed = (result(suite, f"baseline/{name}-{end}") for end in ("whole", "killed"))
    timings = {"training_seconds": 0.0, "tokens_per_second": None}
    assert whole.model_copy(update=timings) == resumed.model_copy(update=timings)


def test_the_order_in_which_probabilities_are_told_changes_no_weight(suite):
    """A cluster's orders come out of sorted JSON, a local run's in the order of the file."""
    rates = {"kind": 0.7, "repeat": 0.3}
    for name, probabilities in (
        ("file", rates),
        ("sorted", dict(reversed(rates.items()))),
    ):
        parameters = train_parameters("high-resource", list(rates), probabilities=probabilities, max_steps=20)
        suite.run(suite.order(f"high-resource/{name}", parameters))
    assert weights(suite, "high-resource/file") == weights(suite, "high-resource/sorted")


def _after(checkpoint: Path, step: int) -> bool:
    """A checkpoint is there, and best weights of a step after ``step``."""
    steps = [int(path.stem.removeprefix("best-")) for path in checkpoint.glob("best-*.pt")]
    return (checkpoint / "checkpoint.pt").exists() and any(saved_step > step for saved_step in steps)


def test_pretraining_goes_on_where_it_was_killed(suite):
    parameters = base_parameters(pretraining=pretraining(maxSteps=40))
    outcomes = []
    for stage in ("base/whole", "base/killed"):
        order = suite.order(stage, parameters)
        if stage == "base/killed":
            checkpoint = suite.work(stage) / "checkpoint" / "checkpoint.pt"
            interrupt(suite, order, checkpoint.exists, signal.SIGKILL)
        outcomes.append(suite.run(order))
    assert "resuming after step" not in outcomes[0]
    assert "resuming after step" in outcomes[1]
    assert weights(suite, "base/whole") == weights(suite, "base/killed")


def test_sigterm_leaves_a_checkpoint_and_says_that_it_may_be_tried_again(suite):
    parameters = train_parameters("baseline", max_steps=80)
    suite.run(suite.order("baseline/whole", parameters))
    order = suite.order("baseline/interrupted", parameters)
    checkpoint = suite.work("baseline/interrupted") / "checkpoint" / "checkpoint.pt"
    stopped = interrupt(suite, order, checkpoint.exists, signal.SIGTERM)
    assert stopped.returncode == EXIT_RETRYABLE, stopped.stderr
    failure = StageFailure.model_validate_json((suite.work("baseline/interrupted") / "failure.json").read_text())
    assert failure.kind == "Retryable"
    assert "running the stage again continues from there" in failure.message
    suite.run(order)
    assert weights(suite, "baseline/interrupted") == weights(suite, "baseline/whole")


CGC = Tuning(method="CGCLoRA", rank=6).for_group(["kind", "repeat"])


@pytest.mark.parametrize("tuning", [Tuning(method="Full"), Tuning(method="LoRA", rank=4), CGC])
def test_a_mixture_goes_on_from_stage_2_and_says_how_many_rows_each_task_was_given(suite, tuning):
    name = tuning.method
    both = ["kind", "repeat"]
    settings = {"tuning": tuning, "max_steps": 30}
    stage2 = f"high-resource/{name}"
    suite.run(suite.order(stage2, train_parameters("high-resource", both, **settings)))
    mixture = train_parameters("mixture", both, reference_scores={"kind": 0.8, "repeat": 0.5}, **settings)
    output = suite.run(suite.order(f"mixture/{name}", mixture, inputs=[stage2]))
    suite.run(suite.order(f"mixture/{name}-alone", mixture))

    after, alone = result(suite, f"mixture/{name}"), result(suite, f"mixture/{name}-alone")
    assert after.curve[0].train_loss < alone.curve[0].train_loss
    assert sum(after.rows_given.values()) == 30 * 16
    assert sum(after.tokens_given.values()) == after.tokens
    assert f"kind: {after.rows_given['kind']} rows" in output
    assert set(after.validation) == set(both)
    if name == "LoRA":
        layers = load_file(suite.artifact(f"mixture/{name}") / "weights" / "adapter_model.safetensors")
        assert after.trainable_parameters == sum(value.numel() for value in layers.values())


def experts(suite, stage):
    return load_file(suite.artifact(stage) / "weights" / "adapter_model.safetensors")


def test_stage_3_takes_over_the_experts_that_stage_2_has_and_begins_the_others_anew(suite):
    """With a learning rate of next to nothing the weights after stage 3 are those that it began with."""
    frozen = optimisation(learning_rate=1e-12)
    stage2 = train_parameters("high-resource", ["repeat"], tuning=CGC, max_steps=20)
    suite.run(suite.order("high-resource/experts", stage2))
    for name, inputs in (("experts", ["high-resource/experts"]), ("experts-alone", [])):
        parameters = train_parameters("mixture", ["kind", "repeat"], tuning=CGC, max_steps=1, optimisation=frozen)
        suite.run(suite.order(f"mixture/{name}", parameters, inputs=inputs))
    before, after = experts(suite, "high-resource/experts"), experts(suite, "mixture/experts")
    fresh = experts(suite, "mixture/experts-alone")
    rank = CGC.expert_rank
    common, first, second = (slice(part * rank, (part + 1) * rank) for part in range(3))
    for name, value in after.items():
        if name.endswith("cgc_lora_A"):
            # Stage 2 has the common expert and that of repeat; in stage 3 repeat is the second task.
            assert value.shape[0] == 3 * rank
            assert torch.allclose(value[common], before[name][common])
            assert torch.allclose(value[second], before[name][first])
            assert torch.allclose(value[first], fresh[name][first])
            assert not torch.allclose(value[common], fresh[name][common])
    assert any(name.endswith("cgc_lora_A") for name in after)


def test_experts_go_on_where_their_training_was_killed(suite):
    """The count of steps of each task, and its averages, are in the checkpoint."""
    parameters = train_parameters(
        "mixture",
        ["kind", "repeat"],
        tuning=CGC,
        probabilities={"kind": 0.97, "repeat": 0.03},  # repeat has no rows in many steps
        max_steps=60,
        reference_scores={"kind": 0.8, "repeat": 0.5},
    )
    for stage in ("mixture/whole", "mixture/killed"):
        order = suite.order(stage, parameters)
        if stage == "mixture/killed":
            checkpoint = suite.work(stage) / "checkpoint"
            interrupt(suite, order, (checkpoint / "checkpoint.pt").exists, signal.SIGKILL)
        output = suite.run(order)
    assert "resuming after step" in output
    assert weights(suite, "mixture/whole") == weights(suite, "mixture/killed")
