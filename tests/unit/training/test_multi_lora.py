"""Runs that train together: each ends with the losses and the weights that it has alone."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from multitask_api.bundle import ForwardPath
from multitask_api.cluster import EXIT_RETRYABLE, EXIT_USER_ERROR, PROGRESS_KEY
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import StageFailure, StageOrder, StageProgress
from multitask_api.stage_io.packing import manifest_key
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import TrainResult
from multitask_api.stages.versions import VERSIONS
from multitask_trainer.errors import Interrupted
from multitask_trainer.pod import reporters
from multitask_trainer.pod import unit as pod_unit
from multitask_trainer.pod.configmap import ConfigMap, connect
from multitask_trainer.pod.reporters import JointProgressReporter
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.runtime.progress import FileProgressReporter, RateLimit
from multitask_trainer.runtime.runner import run_stage, run_together
from multitask_trainer.stages import baseline
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.attention.choice import choose_attention
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.training.multi_lora import run as multi_lora_run
from multitask_trainer.training.multi_lora.batches import JointBatches
from multitask_trainer.training.multi_lora.loop import JointLoop
from multitask_trainer.training.multi_lora.run import train_together, why_apart
from multitask_trainer.training.multi_lora.step import JointStep, RunLosses
from multitask_trainer.training.optimizer import TrainingSettings, make_adamw
from multitask_trainer.training.run import RunData
from multitask_trainer.tuning.multi_lora import MultiLora
from support.fake_api_server import NAME, ApiServer, running
from support.pod_units import manifest, orders
from support.training_fixtures import (
    TrainingSuite,
    base_parameters,
    optimisation,
    small_decoder,
    train_parameters,
)

LORA = Tuning(method="LoRA", rank=4, alpha=8)
#: Name → task, seed, limit of steps, patience. The second stops early, the third is of another seed.
RUNS = {"a": ("kind", 5, 30, 9), "b": ("repeat", 5, 60, 1), "c": ("kind", 6, 24, 9)}


class Ends:
    """How stages ended; see `ResultReporter`."""

    def __init__(self) -> None:
        self.succeeded_: list[str] = []
        self.failures: dict[str, StageFailure] = {}

    def succeeded(self, manifest) -> None:
        self.succeeded_.append(manifest.stage)

    def failed(self, failure, digest) -> None:
        del digest
        self.failures[failure.stage] = failure


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> TrainingSuite:
    training_suite = TrainingSuite(tmp_path_factory.mktemp("suite"), train=120, others=24)
    assert training_suite.run_here(training_suite.order("base", base_parameters())) is None
    return training_suite


def contexts(suite: TrainingSuite, prefix: str, runs: Mapping[str, tuple], **changes: int) -> list[StageContext]:
    found = []
    for name, (task, seed, steps, patience) in runs.items():
        settings = {"seed": seed, "min_steps": 0, "patience": patience, "eval_every": 6, "batch_rows": 8} | changes
        parameters = train_parameters(
            "baseline", [task], tuning=LORA, max_steps=steps, optimisation=optimisation(**settings)
        )
        order = StageOrder.model_validate_json(suite.order(f"baseline/{prefix}-{name}", parameters).read_text())
        found.append(StageContext(order, FileProgressReporter(order.stage, None)))
    return found


def together(stages: Sequence[StageContext]) -> tuple[int, Ends]:
    ends = Ends()
    return run_together(baseline.work_together, [(stage, ends) for stage in stages]), ends


def result(suite: TrainingSuite, stage: str) -> TrainResult:
    return TrainResult.model_validate(suite.manifest(stage).result)


def weights(suite: TrainingSuite, stage: str) -> dict[str, torch.Tensor]:
    return load_file(suite.artifact(stage) / "weights" / "adapter_model.safetensors")


def _alone(suite: TrainingSuite, name: str) -> dict[str, torch.Tensor]:
    return weights(suite, f"baseline/alone-{name}")


class _StopsAt(FileProgressReporter):
    """Sends SIGTERM to this process when the run has come so far."""

    def __init__(self, step: int) -> None:
        super().__init__("test", None)
        self._step = step

    def report(self, phase, **position) -> None:
        if phase == "training" and position["step"] == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


def _batches(generator: np.random.Generator, seed: int, *, pack: bool) -> TaskBatches:
    """Eight rows a step, of 30 rows of different lengths."""
    prompts = [generator.integers(3, 60, length).tolist() for length in generator.integers(3, 12, 30)]
    answers = [generator.integers(3, 60, length).tolist() for length in generator.integers(1, 4, 30)]
    return TaskBatches(
        sampler=Sampler({"a": 1.0}, {"a": 30}, batch_rows=8, seed=seed),
        datasets=[EncodedDataset.of(prompts, answers)],
        batch_rows=8,
        token_budget=4096,
        pack=pack,
    )


def _two_layers(seeds: Sequence[int]) -> tuple[torch.nn.Module, MultiLora]:
    """A small decoder with an adapter for each seed, none of which is zero."""
    method = MultiLora(LORA, seeds)
    model = method.prepare(small_decoder())
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in method.factors.items():
            if "lora_B" in name:
                value.copy_(torch.randn_like(value) * 0.1)
    return model, method


@pytest.fixture(scope="module")
def trained(suite) -> TrainingSuite:
    """All of `RUNS` alone, and all together."""
    for stage in contexts(suite, "alone", RUNS):
        ends = Ends()
        assert run_stage(baseline.work, stage, ends) == 0, ends.failures
    status, ends = together(contexts(suite, "together", RUNS))
    assert (status, ends.failures) == (0, {})
    return suite


@pytest.mark.parametrize("name", RUNS)
def test_a_run_together_with_others_is_the_run_alone(trained, name):
    alone, joint = (result(trained, f"baseline/{prefix}-{name}") for prefix in ("alone", "together"))
    assert (alone.trained_together, joint.trained_together) == (None, len(RUNS))
    unlike = {"trained_together", "training_seconds", "tokens_per_second", "curve", "validation", "test_score"}
    assert joint.model_dump(exclude=unlike) == alone.model_dump(exclude=unlike)
    for point, other in zip(joint.curve, alone.curve, strict=True):
        assert (point.step, point.phase) == (other.step, other.phase)
        assert point.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        for task, values in point.tasks.items():
            assert values.loss == pytest.approx(other.tasks[task].loss, rel=1e-4)
            assert values.score == pytest.approx(other.tasks[task].score, abs=1e-6)
    assert joint.test_score == pytest.approx(alone.test_score, abs=1e-6)
    expected, actual = (weights(trained, f"baseline/{prefix}-{name}") for prefix in ("alone", "together"))
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-3, atol=1e-5)
    folders = [trained.artifact(f"baseline/{prefix}-{name}") / "weights" for prefix in ("alone", "together")]
    assert content_digest(folders[0], ["adapter_config.json"]) == content_digest(folders[1], ["adapter_config.json"])


def test_a_run_that_fails_leaves_the_others_as_they_were(trained):
    good, broken = contexts(trained, "mixed", {"good": RUNS["a"], "broken": RUNS["a"]})
    (long,) = contexts(trained, "mixed", {"long": ("repeat", 5, 12, 9)}, max_length=5000)
    slots = {f"{name.removesuffix('.weight')}.default.weight": value for name, value in _alone(trained, "a").items()}
    not_finite = {name: torch.nn.Parameter(torch.full_like(value, torch.nan)) for name, value in slots.items()}
    optimizer = make_adamw(not_finite, TrainingSettings(30, optimisation()), lambda _: True).state_dict()
    weights_of = {name: value.detach() for name, value in not_finite.items()}
    CheckpointStore(broken.work_folder / "checkpoint").save(Progress(step=3), weights_of, optimizer)
    status, ends = together([good, broken, long])
    assert status == EXIT_USER_ERROR
    assert ends.succeeded_ == ["baseline/mixed-good"]
    assert ends.failures["baseline/mixed-broken"].message.startswith("the training loss is nan at step 4;")
    assert "training.maxLength: 5000 tokens are more than" in ends.failures["baseline/mixed-long"].message
    for key, value in weights(trained, "baseline/mixed-good").items():
        torch.testing.assert_close(value, _alone(trained, "a")[key], rtol=1e-3, atol=1e-5)


def test_runs_that_are_stopped_go_on_in_another_company(trained, monkeypatch):
    """Stopped while all train, and again while what is left of the first that has ended is done."""
    runs = {"a": RUNS["a"], "b": RUNS["b"], "c": RUNS["c"]}
    stages = contexts(trained, "cut", runs)
    stages[1] = StageContext(stages[1].order, _StopsAt(8))
    status, ends = together(stages)
    assert status == EXIT_RETRYABLE
    assert {failure.message.partition(";")[0] for failure in ends.failures.values()} == {"stopped after step 8"}

    def stopped(_stage, _result):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it goes on")

    with monkeypatch.context() as patched:
        patched.setattr(baseline, "_served_and_scored", stopped)
        before = signal.signal(signal.SIGTERM, pod_unit.interrupt)
        try:
            status, ends = together(contexts(trained, "cut", runs))
        finally:
            signal.signal(signal.SIGTERM, before)
    assert (status, ends.succeeded_, len(ends.failures)) == (EXIT_RETRYABLE, [], len(runs))
    ended = min(result(trained, f"baseline/alone-{name}").steps for name in runs)
    for stage in stages:
        progress, _, _ = CheckpointStore(stage.work_folder / "checkpoint").load()
        assert progress.step == ended
    again = contexts(trained, "cut", runs)
    assert together(again[:2])[0] == 0
    assert run_stage(baseline.work, again[2], Ends()) == 0
    for name in runs:
        for key, value in weights(trained, f"baseline/cut-{name}").items():
            torch.testing.assert_close(value, _alone(trained, name)[key], rtol=1e-3, atol=1e-5)


def test_runs_that_do_not_fit_together_any_more_go_on_one_after_the_other(trained, monkeypatch, capsys):
    load, passes = multi_lora_run.load_base, itertools.count()

    def with_little_memory(*arguments):
        base = load(*arguments)

        def note(*_):
            if base.training and next(passes) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")

        base.get_decoder().register_forward_pre_hook(note)
        return base

    monkeypatch.setattr(multi_lora_run, "load_base", with_little_memory)
    runs = {"a": RUNS["a"], "c": RUNS["c"]}
    assert together(contexts(trained, "tight", runs))[0] == 0
    output = capsys.readouterr().out
    assert "these runs do not fit together any more" in output
    assert output.count("resuming after step") == len(runs)
    for name in runs:
        assert result(trained, f"baseline/tight-{name}").trained_together is None
        for key, value in weights(trained, f"baseline/tight-{name}").items():
            torch.testing.assert_close(value, _alone(trained, name)[key], rtol=1e-3, atol=1e-5)


class _SavesSlowly(CheckpointStore):
    may_write = threading.Event()

    def _write(self, name, content):
        assert self.may_write.wait(60)
        super()._write(name, content)


def test_whatever_ends_all_runs_waits_for_the_checkpoints_that_are_being_written(trained, monkeypatch):
    monkeypatch.setattr(multi_lora_run, "CheckpointStore", _SavesSlowly)
    advance, steps = JointLoop._advance, itertools.count()

    def fails(joint_loop):
        if next(steps) == 6:  # right after the first validation
            threading.Timer(0.5, _SavesSlowly.may_write.set).start()
            raise ZeroDivisionError
        advance(joint_loop)

    monkeypatch.setattr(JointLoop, "_advance", fails)
    stages = contexts(trained, "slow", {"a": RUNS["a"], "c": RUNS["c"]})
    with pytest.raises(ZeroDivisionError):
        list(train_together(stages))
    for stage in stages:
        progress, _, _ = CheckpointStore(stage.work_folder / "checkpoint").load()
        assert progress.step == 6


def test_after_a_stop_no_other_order_begins(trained):
    begun = []

    def work(stages):
        for stage in stages:
            yield stage, stopped

    def stopped(stage):
        begun.append(stage.order.stage)
        raise Interrupted("stopped")

    ends = Ends()
    stages = contexts(trained, "stopped", RUNS)
    assert run_together(work, [(stage, ends) for stage in stages]) == EXIT_RETRYABLE
    assert begun == ["baseline/stopped-a"]
    assert {failure.message for failure in ends.failures.values()} == {"stopped"}
    assert len(ends.failures) == 3


def test_a_base_with_dropout_of_its_own_trains_one_run_after_the_other(trained, monkeypatch):
    load = multi_lora_run.load_base

    def with_dropout(*arguments):
        base = load(*arguments)
        base.config.attention_dropout = 0.1
        return base

    monkeypatch.setattr(multi_lora_run, "load_base", with_dropout)
    runs = {"a": ("kind", 5, 8, 9), "c": ("kind", 6, 8, 9)}
    assert together(contexts(trained, "dropout", runs))[0] == 0
    assert [result(trained, f"baseline/dropout-{name}").trained_together for name in runs] == [None, None]


def test_a_pod_trains_its_baselines_together_and_reports_each(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(reporters, "RateLimit", lambda *_, **__: RateLimit(0))
    runs = {"a": ("kind", 5, 12, 9), "c": ("kind", 6, 8, 9)}
    stages = [
        stage.order.model_copy(update={"version": VERSIONS["baseline"], "digest": f"d-{stage.order.stage[-1]}"})
        for stage in contexts(trained, "pod", runs)
    ]
    with running(ApiServer()) as server, connect({}, server.url) as client:
        configmap = ConfigMap(NAME, client, sleep=lambda _: None)
        assert pod_unit.run_unit(orders(tmp_path, *stages), configmap, DistributedContext()) == 0
        together = [TrainResult.model_validate(manifest(server, name).result).trained_together for name in runs]
    assert together == [2, 2]
    reports = [
        (number, StageProgress.model_validate_json(text))
        for number, patch in enumerate(server.patches)
        if (text := patch.get("data", {}).get(PROGRESS_KEY))
    ]
    named = [(number, {each.stage, *(other.stage for other in each.together or ())}) for number, each in reports]
    (ended,) = (n for n, patch in enumerate(server.patches) if manifest_key("d-c") in patch.get("binaryData", {}))
    assert {"baseline/pod-a", "baseline/pod-c"} in [names for number, names in named if number < ended]
    assert [names for number, names in named if number > ended][-1] == {"baseline/pod-a"}
    assert not any("baseline/pod-c" in names for number, names in named if number > ended)


def test_the_report_of_stages_together_is_of_the_one_with_most_left_and_names_the_others():
    class Written:
        texts: list[str] = []  # noqa: RUF012 - of this one test

        def patch(self, body, timeout):
            del timeout
            self.texts.append(body["data"][PROGRESS_KEY])

    now = [0.0]
    reporter = JointProgressReporter(Written(), clock=lambda: now[0])
    for stage, step, total in (("a", 50, 60), ("b", 50, 90), ("c", 50, 70)):
        now[0] += 16
        reporter.of_stage(stage).report("training", step=step, total=total, loss=0.5)
    reporter.ended("c")
    now[0] += 16
    reporter.repeat()
    progress = [StageProgress.model_validate_json(text) for text in Written.texts]
    assert [each.stage for each in progress] == ["a", "b", "b", "b"]
    assert [[other.stage for other in each.together or ()] for each in progress] == [[], ["a"], ["c", "a"], ["a"]]
    assert progress[-1].updated == 64


def test_packed_rows_of_whole_runs_alone_and_together_give_the_weights_of_padded_rows(trained, monkeypatch):
    padded = RunData.batches
    monkeypatch.setattr(RunData, "batches", lambda *arguments: replace(padded(*arguments), pack=True))
    runs = {"a": RUNS["a"], "c": RUNS["c"]}
    assert run_stage(baseline.work, contexts(trained, "packed-alone", runs)[0], Ends()) == 0
    assert together(contexts(trained, "packed", runs))[0] == 0
    assert result(trained, "baseline/alone-a").packed_attention is None
    for name, run in (("a", "packed-alone-a"), ("a", "packed-a"), ("c", "packed-c")):
        attention = result(trained, f"baseline/{run}").packed_attention
        assert attention is not None
        assert attention.kind == "Varlen"
        for key, value in _alone(trained, name).items():
            torch.testing.assert_close(weights(trained, f"baseline/{run}")[key], value, rtol=1e-3, atol=1e-5)


def test_orders_that_are_done_are_reported_and_not_trained(trained):
    stages = contexts(trained, "together", RUNS)
    status, ends = together(stages)
    assert (status, sorted(ends.succeeded_)) == (0, sorted(stage.order.stage for stage in stages))


@pytest.mark.parametrize(
    ("layout", "budget", "count"),
    [
        pytest.param("padded", 4096, 1, id="padded"),
        pytest.param("masked", 4096, 1, id="masked"),
        pytest.param("masked", 64, 2, id="masked, in several micro-batches"),
        pytest.param("varlen", 4096, 1, id="varlen"),
        pytest.param("varlen", 64, 2, id="varlen, in several micro-batches"),
    ],
)
def test_rows_of_several_runs_in_micro_batches_have_the_losses_and_gradients_they_have_alone(layout, budget, count):
    generator = np.random.default_rng(3)
    batches = [_batches(generator, seed, pack=layout != "padded") for seed in (1, 2, 3)]
    joint = JointBatches(batches, budget)
    model, method = _two_layers(seeds=(1, 2, 3))
    loss = RunLosses(model, None, 3)
    if layout == "varlen":
        step = JointStep(
            model, TrainingSettings(9, optimisation()), method=method, runs=3, accelerator=Accelerator(cpu=True),
            path=ForwardPath(),
        )  # fmt: skip
        joint, attention = choose_attention(model, step, joint, Accelerator(cpu=True), max_length=128)
        assert attention is not None
        assert attention.kind == "Varlen"
    steps = {0: 4, 2: 7}
    micro_batches = joint.lay_out({run: joint.rows(run, step) for run, step in steps.items()})
    assert len(micro_batches) == count
    assert (micro_batches[0].segment_ids is not None) == (layout == "masked")
    assert (micro_batches[0].cumulative_lengths is not None) == (layout == "varlen")
    losses = torch.zeros(3)
    for micro_batch in micro_batches:
        with method.select_tasks(model, micro_batch.task_ids):
            own = loss(micro_batch)
            own.sum().backward()
        losses += own.detach()
    assert losses[1] == 0
    for run, step in steps.items():
        gradients = method.gradients(run)
        slots = {name: value for name, value in model.named_parameters() if name in gradients}
        method.fill_slot(model, method.of_adapter(run))
        for value in slots.values():
            value.requires_grad_()
        alone = sum(RowMeanLoss(model)(replace(each, task_ids=None)) for each in batches[run].at(step))
        alone.backward()
        torch.testing.assert_close(losses[run], alone.detach(), rtol=1e-5, atol=1e-6)
        for name, value in slots.items():
            torch.testing.assert_close(gradients[name], value.grad, rtol=1e-4, atol=1e-6)
            value.grad = None


def test_the_rows_of_a_run_are_not_padded_to_those_of_another():
    generator = np.random.default_rng(4)
    batches = [_batches(generator, seed, pack=True) for seed in (1, 2, 3, 4)]
    long = EncodedDataset.of([generator.integers(3, 60, 1500).tolist()] * 30, [[5]] * 30)
    batches.append(replace(batches[0], datasets=[long]))
    joint = JointBatches(batches, 4096)
    for step in range(4):
        rows = {run: joint.rows(run, step) for run in range(len(batches))}
        micro_batches = joint.lay_out(rows)
        given = sum(each.tokens for each in micro_batches)
        assert given == sum(len(ids) - 1 for own in rows.values() for ids, _ in own)
        assert given > 0.95 * sum(each.input_ids.numel() for each in micro_batches)
        assert all(each.input_ids.numel() <= 4096 for each in micro_batches)
        # What was tried to find that size has as many of them.
        assert max(len(each.targets) for each in micro_batches) <= len(joint.longest(4).targets)
        weights_of = torch.zeros(len(batches))
        for each in micro_batches:
            owners = each.task_ids[each.logit_positions // each.input_ids.shape[1]]
            weights_of.index_add_(0, owners, each.weights)
        torch.testing.assert_close(weights_of, torch.ones(len(batches)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"tuning": Tuning(method="LoRA", dropout=0.1)}, "dropout", id="dropout draws masks by batch"),
        pytest.param({"tuning": Tuning(method="Full")}, "LoRA", id="whole models"),
    ],
)
def test_what_keeps_runs_apart(trained, change, reason):
    stages = contexts(trained, "apart", RUNS)
    parameters = [stage.parameters(TrainParameters).model_copy(update=change) for stage in stages]
    found = why_apart(stages, parameters)
    assert found is None if reason is None else reason in (found or "")


def test_runs_of_different_batches_and_a_run_by_itself_are_apart(trained):
    stages = contexts(trained, "apart", RUNS)
    parameters = [stage.parameters(TrainParameters) for stage in stages]
    other = parameters[1].model_copy(update={"optimisation": optimisation(batch_rows=4)})
    assert "rows of a batch" in (why_apart(stages, [parameters[0], other, parameters[2]]) or "")
    assert "one run" in (why_apart(stages[:1], parameters[:1]) or "")


def test_the_runs_differ_in_what_they_are_to_differ_in(trained):
    steps = {name: result(trained, f"baseline/together-{name}").steps for name in RUNS}
    assert len(set(steps.values())) == len(RUNS)
    assert result(trained, "baseline/together-b").ended_by == "patience"
    first, second = (weights(trained, f"baseline/together-{name}") for name in "ac")
    assert not any(torch.equal(first[key], second[key]) for key in first)
