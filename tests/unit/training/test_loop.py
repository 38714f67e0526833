"""The loop's decisions, on a real but minute model with validations that are given in advance."""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.results import TaskPoint
from multitask_trainer.errors import MicroBatchTooLarge, StageError
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.training.batching.layouts import padded
from multitask_trainer.training.checkpoint import CheckpointStore
from multitask_trainer.training.loop import TrainingLoop
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings, make_adamw
from multitask_trainer.training.selection import Selection
from multitask_trainer.training.stopping import EarlyStopping
from multitask_trainer.tuning import tuning_method
from multitask_trainer.tuning.full import Full
from support.training_fixtures import optimisation, small_decoder


class Copies:
    """Every step, eight rows whose answer repeats their first token."""

    width = 6
    step_tokens = 48

    def __init__(self, fails_at: int | None = None, token_budget: int = 20) -> None:
        self.fails_at = fails_at
        self.token_budget = token_budget

    def with_budget(self, tokens: int):
        return Copies(self.fails_at, tokens)

    def at(self, step: int):
        if step == self.fails_at:
            raise PowerCut
        generator = np.random.default_rng(step)
        prompts = generator.integers(0, 61, (8, 5)).astype(np.int32)
        rows = [(np.append(prompt, [prompt[0], 60]).astype(np.int32), 5) for prompt in prompts]
        return padded(rows, batch_rows=8, token_budget=self.token_budget, tasks=[0] * 8)

    def present(self, step: int):
        return torch.ones(1, dtype=torch.bool)


class PowerCut(Exception):
    pass


def loop(
    folder,
    *,
    scores=None,
    seen=0,
    model=None,
    method=None,
    batches=None,
    max_steps=100,
    references=None,
    rows=0,
    **changes,
):
    """A loop whose i-th validation gives ``scores[i]``, the last one from then on; without scores it has none."""
    numbers = itertools.count(seen)

    def validate():
        score = scores[min(next(numbers), len(scores) - 1)]
        return {"a": TaskPoint(loss=2 - score, score=score)}

    settings = {"eval_every": 10, "min_steps": 0, "patience": 2, "batch_rows": 8} | changes
    accelerator = Accelerator(cpu=True)
    training = TrainingSettings(max_steps, optimisation(**settings))
    model = model if model is not None else small_decoder()
    return TrainingLoop(
        OptimizerStep(model, training, method=method or Full(), accelerator=accelerator),
        batches or Copies(),
        training,
        accelerator=accelerator,
        store=CheckpointStore(folder),
        reporter=FileProgressReporter("test", None),
        validate=validate if scores is not None else None,
        stopping=EarlyStopping(
            Selection(references or {}, {"a": rows} if rows else {}),
            settings["patience"],
            is_mixture=references is not None,
        ),
    )


@pytest.mark.parametrize(
    ("scores", "settings", "steps", "chosen", "by_limit"),
    [
        pytest.param([0.1, 0.5, 0.4, 0.4], {}, 46, 20, False, id="two validations without a better one begin the tail"),
        pytest.param([0.1, 0.5, 0.4, 0.4], {"min_steps": 60}, 69, 20, False, id="but not before minSteps"),
        pytest.param([0.1, 0.5, 0.4, 0.4, 0.9], {}, 46, 46, False, id="a checkpoint of the tail can be the best"),
        pytest.param([i / 100 for i in range(1, 50)], {}, 100, 100, True, id="the limit, which includes the tail"),
        pytest.param([0.5], {"max_steps": 1}, 1, 1, True, id="one step"),
        pytest.param([0.5], {"max_steps": 7, "eval_every": 50}, 7, 6, True, id="fewer steps than evalEvery"),
    ],
)
def test_when_training_ends_and_what_is_kept(tmp_path, scores, settings, steps, chosen, by_limit):
    training_loop = loop(tmp_path, scores=scores, **settings)
    progress = training_loop.run()
    assert (progress.step, progress.best_step, progress.ended_by_limit) == (steps, chosen, by_limit)


@pytest.mark.parametrize(
    ("scores", "settings", "steps", "by_limit"),
    [
        pytest.param([0.1, 0.5, 0.8], {}, 81, False, id="settled: it stops two flat validations after its plateau"),
        pytest.param([0.1, 0.5, 0.6], {}, 100, True, id="below its baseline: the limit"),
        pytest.param([0.1, 0.5, 0.8], {"min_steps": 80}, 92, False, id="but not before minSteps"),
        pytest.param([0.1, 0.5, 0.8], {"min_steps": 10_000}, 100, True, id="minSteps beyond the limit: never early"),
    ],
)
def test_a_mixture_stops_when_it_has_settled(tmp_path, capsys, scores, settings, steps, by_limit):
    training_loop = loop(tmp_path, scores=scores, references={"a": 0.8}, **settings)
    progress = training_loop.run()
    assert (progress.step, progress.ended_by_limit) == (steps, by_limit)
    assert "the decay begins; " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "chosen"), [pytest.param(50, 81, id="few rows: the end"), pytest.param(50_000, 30, id="many: the best")]
)
def test_of_a_mixture_the_end_is_kept_where_the_validation_rows_cannot_tell(tmp_path, rows, chosen):
    model = small_decoder()
    scores = [0.1, 0.5, 0.8, 0.79, 0.79]
    progress = loop(tmp_path, model=model, scores=scores, references={"a": 0.8}, rows=rows).run()
    assert (progress.step, progress.best_step) == (81, chosen)
    best = CheckpointStore(tmp_path).load_best(chosen)
    assert all(torch.equal(value, best[name]) for name, value in model.named_parameters())


def test_validations_stand_every_so_often_before_the_tail_and_at_the_end(tmp_path):
    progress = loop(tmp_path, scores=[i / 100 for i in range(1, 50)], max_steps=50).run()
    phases = [(point.step, point.phase) for point in progress.curve]
    assert phases == [
        (10, "constant"),
        (20, "constant"),
        (30, "constant"),
        (40, "constant"),
        (43, "constant"),
        (50, "decay"),
    ]


@pytest.mark.parametrize(("max_steps", "validations"), [(25, 20), (50, 7), (3, 5), (9, 1)])
def test_with_a_number_of_validations_there_are_as_many_the_last_at_the_end(tmp_path, max_steps, validations):
    settings = {"max_steps": max_steps, "validations": validations, "eval_every": 2}
    steps = [point.step for point in loop(tmp_path, scores=[0.5], **settings, min_steps=10_000).run().curve]
    assert len(steps) == min(validations, max_steps)
    assert steps[-1] == max_steps
    gaps = [after - before for before, after in itertools.pairwise([0, *steps])]
    assert max(gaps) - min(gaps) <= 1


def test_the_model_ends_with_the_best_weights_not_the_last(tmp_path):
    model = small_decoder()
    training_loop = loop(tmp_path, model=model, scores=[0.1, 0.9, 0.2], max_steps=30)
    progress = training_loop.run()
    assert progress.best_step == 20
    best = CheckpointStore(tmp_path).load_best(20)
    assert all(torch.equal(value, best[name]) for name, value in model.named_parameters())
    last = CheckpointStore(tmp_path).load()[1]
    assert not torch.equal(last["model.norm.weight"], best["model.norm.weight"])


def test_without_validation_the_last_weights_are_the_result_and_the_loss_falls(tmp_path):
    progress = loop(tmp_path, max_steps=150, learning_rate=1e-2).run()
    assert progress.best_step is None
    assert progress.curve[-1].train_loss < 0.7 * progress.first_loss


@pytest.mark.parametrize("fails_at", [3, 10, 11, 29, 43, 45])
def test_a_run_that_is_cut_ends_with_the_same_weights(tmp_path, fails_at):
    scores = [0.1, 0.5, 0.4, 0.3]
    whole, cut = small_decoder(), small_decoder()
    expected = loop(tmp_path / "whole", model=whole, scores=scores, max_steps=100).run()
    with pytest.raises(PowerCut):
        loop(tmp_path / "cut", model=cut, scores=scores, batches=Copies(fails_at)).run()
    fresh = small_decoder(seed=9)
    if not (tmp_path / "cut" / "checkpoint.pt").exists():
        fresh = small_decoder()
    resumed = loop(tmp_path / "cut", model=fresh, scores=scores, seen=_done(tmp_path / "cut")).run()
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), fresh.parameters(), strict=True))
    assert resumed.model_copy(update={"seconds": expected.seconds}) == expected


def _done(folder) -> int:
    """Validations that the checkpoint holds."""
    checkpoint = CheckpointStore(folder).load()
    return len(checkpoint[0].curve) if checkpoint else 0


def test_old_best_weights_are_removed(tmp_path):
    loop(tmp_path, scores=[0.1, 0.2, 0.3, 0.2], max_steps=60).run()
    assert [path.name for path in tmp_path.glob("best-*")] == ["best-30.pt"]


def test_a_loss_that_is_not_a_number_ends_the_run_with_a_hint(tmp_path):
    model = small_decoder()
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(StageError, match=r"the training loss is nan at step 1; lower training\.learningRate"):
        loop(tmp_path, model=model, scores=[0.1]).run()


def test_micro_batches_add_up_to_one_step(tmp_path):
    """The same rows in one micro-batch or in many end with the same weights, up to rounding."""
    rows = [(np.arange(6 + row, dtype=np.int32), 3 + row) for row in range(8)]
    models = [small_decoder(), small_decoder()]
    for model, budget in zip(models, (10_000, 6), strict=True):
        batches = Always(padded(rows, batch_rows=8, token_budget=budget))
        loop(tmp_path / str(budget), model=model, batches=batches, max_steps=3).run()
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)


class Always:
    """The same micro-batches at every step."""

    token_budget, width = 20, 4

    def __init__(self, micro_batches) -> None:
        self.micro_batches = micro_batches

    def at(self, step: int):
        return self.micro_batches

    def present(self, step: int):
        return torch.ones(1, dtype=torch.bool)


class Watched(Full):
    """Full tuning that notes which tasks are selected, in which pass, and what its steps are told."""

    def __init__(self) -> None:
        self.selected = None
        self.passes: list[tuple[str, object]] = []
        self.present: list[list[bool]] = []

    @contextmanager
    def select_tasks(self, model, tasks):
        self.selected = tasks.tolist()
        yield
        self.selected = None

    def decays(self, name):
        return "mlp" not in name

    def task_step(self, model, optimizer, present):
        self.present.append(present.tolist())
        optimizer.step()


class TwoTasks:
    """Two micro-batches of rows of two tasks out of three."""

    token_budget, width = 20, 4

    def at(self, step: int):
        rows = [(np.arange(4 + row, dtype=np.int32), 2) for row in range(2)]
        return padded(rows, batch_rows=2, token_budget=1, tasks=[2, 0])

    def present(self, step: int):
        return torch.tensor([True, False, True])


def test_a_method_is_told_the_tasks_in_forward_and_backward_and_those_of_the_whole_step(tmp_path):
    model, method = small_decoder(), Watched()
    layer = model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda *_: method.passes.append(("forward", method.selected)))
    layer.weight.register_hook(lambda gradient: method.passes.append(("backward", method.selected)))
    loop(tmp_path, model=model, method=method, batches=TwoTasks(), max_steps=1).run()
    assert method.passes == [(name, [task]) for task in (0, 2) for name in ("forward", "backward")]
    assert method.present == [[True, False, True]]


def test_weights_decay_where_the_method_lets_them():
    parameters = dict(small_decoder().named_parameters())
    optimizer = make_adamw(parameters, TrainingSettings(1, optimisation()), Watched().decays)
    rates = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    decaying = {name for name, value in parameters.items() if rates[id(value)] > 0}
    assert decaying == {name for name, value in parameters.items() if value.ndim > 1 and "mlp" not in name}
    assert decaying


def test_all_that_cgc_lora_trains_moves_and_what_is_of_the_task_without_rows_stays(tmp_path):
    """Experts, gates, and the embeddings of tasks, which lie beside the base model."""
    method = tuning_method(Tuning(method="CGCLoRA", rank=8), ("first", "absent", "third"))
    torch.manual_seed(1)
    model = method.prepare(small_decoder())
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    before = {name: value.detach().clone() for name, value in parameters.items()}
    loop(tmp_path, model=model, method=method, batches=TwoTasks(), max_steps=6).run()
    assert {name for name, value in parameters.items() if torch.equal(value, before[name])} == set()
    (embedding,) = (name for name in parameters if "task_embedding" in name)
    moved = (parameters[embedding] != before[embedding]).any(1)
    assert moved.tolist() == [True, False, True]


class SmallMemory(nn.Module):
    """A decoder that runs out of memory with more than ``most`` tokens at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, module, arguments, keywords):
        if keywords["input_ids"].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("most", [pytest.param(12, id="halved twice"), pytest.param(24, id="halved once")])
def test_a_micro_batch_that_does_not_fit_is_halved_and_the_step_done_again(tmp_path, capsys, most):
    fitting, tight = small_decoder(), small_decoder()
    expected = loop(tmp_path / "a", model=fitting, batches=Copies(token_budget=most), max_steps=20).run()
    tight.get_decoder().register_forward_pre_hook(SmallMemory(most).forward, with_kwargs=True)
    training_loop = loop(tmp_path / "b", model=tight, batches=Copies(token_budget=48), max_steps=20)
    progress = training_loop.run()
    assert training_loop.micro_batch.tokens == most
    assert (progress.tokens, progress.curve) == (expected.tokens, expected.curve)
    for name, value in fitting.named_parameters():
        assert torch.equal(value, dict(tight.named_parameters())[name]), name
    assert capsys.readouterr().out.count("out of memory") == {24: 1, 12: 2}[most]


def test_a_row_that_does_not_fit_by_itself_ends_the_run(tmp_path):
    model = small_decoder()
    model.get_decoder().register_forward_pre_hook(SmallMemory(5).forward, with_kwargs=True)
    with pytest.raises(MicroBatchTooLarge, match="out of memory"):
        loop(tmp_path, model=model, max_steps=20).run()
