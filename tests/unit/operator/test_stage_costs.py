"""What a plan says of memory, time and GPU-hours of each training stage, and of what does not fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from multitask_api.errors import UserError
from multitask_api.estimates.fitting import BUSY_TOKENS, MOST_TOKENS, USED
from multitask_api.estimates.flops import attention_flops, training_flops
from multitask_api.estimates.memory import TRAINED_BYTES, MemoryModel, MicroBatchShape
from multitask_api.estimates.shape import ModelShape
from multitask_api.estimates.sharding import divides_weights
from multitask_api.machine.gpu_models import GIB, GpuModel, known_gpu, sold_gpu
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import RowSample
from multitask_api.stages import Node, NodeState
from multitask_operator.commands.costs import cost_text, costs_to_json, named_device, print_costs
from multitask_operator.local import gpus
from multitask_operator.planner.costs import RUNTIME_BYTES, Capacity
from multitask_operator.planner.costs import cost as stage_needs
from multitask_operator.planner.estimate import estimate
from multitask_operator.planner.misfit import misfits, next_change
from multitask_operator.planner.stage_costs import LEAST_STEP, UTILISATION, Speed
from multitask_operator.planner.stage_memory import Device, training_of
from multitask_operator.planner.steps import epoch_hints
from multitask_operator.report.tuning_text import tuning_lines
from support.graph_builders import all_done, graph_of, model, task


def qwen(layers, width, feed_forward, heads, keys, *, tied=True):
    return ModelShape(
        family="qwen2", layers=layers, width=width, feed_forward=feed_forward, heads=heads, key_value_heads=keys,
        head_size=width // heads, vocabulary=151936, tied=tied,
    )  # fmt: skip


HALF = qwen(24, 896, 4864, 14, 2)
SEVEN = qwen(28, 3584, 18944, 28, 4, tied=False)
T4 = Device("T4", 16 * GIB, is_gpu=True)
L4 = Device("L4", 23 * GIB, is_gpu=True, flops=121e12)
A100 = Device("A100", 80 * GIB, is_gpu=True, flops=312e12)
LORA = {"method": "LoRA"}


def cost(resource, shape, device, manifests=None, **more):
    return estimate(resource, graph_of(resource, manifests), shape=shape, device=device, **more)


def test_every_training_stage_has_a_line_and_the_baselines_share_one():
    resource = model(pretraining={"maxSteps": 50})
    found = cost(resource, HALF, A100)
    assert [(stage.name, stage.stages, stage.steps) for stage in found.stages] == [
        ("base", 1, 50),
        ("baseline", 4, 16_000),
        ("high-resource/classification", 1, 3000),
        ("mixture/classification", 1, 12_000),
        ("high-resource/generation", 1, 3000),
        ("mixture/generation", 1, 4000),
    ]
    assert found.steps == sum(stage.steps for stage in found.stages)
    assert found.tokens == found.steps * 64 * 1024


def test_tokens_are_measured_or_else_by_the_text_or_else_at_the_most():
    resource = model(task("urgency"), task("reply", "Generation"), pretraining={"maxSteps": 10})
    text = {"urgency": RowSample(rows=9, is_complete=True, tokens=15.0)}
    both = text | {"reply": RowSample(rows=9, is_complete=True, tokens=45.0)}
    cases = [
        # samples, tokens of a row of: pre-training, baselines, stage 2 of urgency, and where they are from
        ({}, (1024, 1024, 1024), "all rows counted at training.maxLength"),
        (both, (1024, 30, 15), "estimated from the text of rows and prompts, 3 characters a token"),
        (text, (1024, (15 + 1024) / 2, 15), "a row; rows of reply counted at training.maxLength, the most they"),
    ]
    for samples, lengths, source in cases:
        found = cost(resource, HALF, A100, samples=samples)
        assert tuple(stage.tokens / stage.steps / 64 for stage in found.stages[:3]) == lengths
        assert source in found.lengths
    based = cost(resource, HALF, A100, all_done(resource, until="baseline"), samples=both)
    assert based.stages[0].tokens == based.stages[0].steps * 64 * 30, "pre-training measures no rows of tasks"
    half = {key: value for key, value in all_done(resource, until="filter").items() if "urgency/seed" not in key[0]}
    trained = cost(resource, HALF, A100, half, samples=both)
    assert trained.stages[0].tokens == trained.stages[0].steps * 64 * 20
    assert trained.lengths == "rows as long as those that stages have trained on"


def test_default_steps_of_very_many_epochs_are_hinted_at_once():
    def hints(samples, manifests=None, tasks=("urgency", "intent"), **more):
        resource = model(*map(task, tasks), **more)
        return list(epoch_hints(resource, graph_of(resource, manifests), samples))

    def sample(rows, *, is_complete=True):
        return RowSample(rows=rows, is_complete=is_complete, tokens=9.0)

    few, enough = 4000 * 64 // 50 - 1, 4000 * 64 // 50
    (hint,) = hints({"urgency": sample(200), "intent": sample(few)})
    assert hint == (
        "spec.stages.baseline.maxSteps: the default of 4,000 steps is 1,280 epochs over the 200 rows of urgency, and"
        " more than 50 over those of 1 other task, if training does not stop early; lower it (157 steps are 50 epochs"
        " of urgency)"
    )
    assert hints({"urgency": sample(enough), "intent": sample(few, is_complete=False)}) == []
    assert hints({"urgency": sample(200)}, stages={"baseline": {"maxSteps": 3999}}) == []
    assert hints(None) == []
    resource = model(*map(task, ("urgency", "intent")))
    (hint,) = hints({"urgency": sample(9)}, all_done(resource, until="baseline"))
    assert "64 epochs over the 4,000 rows of urgency, if" in hint, "of the rows that were prepared"
    assert hints({"urgency": sample(9)}, all_done(resource)) == []


def test_what_is_done_or_declared_costs_nothing():
    resource = model(task("urgency", baseline={"score": 0.9, "saturationSteps": 100}), task("intent"))
    names = [(stage.name, stage.stages) for stage in cost(resource, HALF, A100).stages]
    assert ("baseline", 1) in names
    assert cost(resource, HALF, A100, all_done(resource)).stages == ()


FITS = [
    # shape, device, tuning, gradientCheckpointing, fits, computed twice
    (HALF, A100, LORA, None, True, False),
    (HALF, L4, LORA, None, True, False),
    (SEVEN, A100, LORA, None, True, False),
    (SEVEN, A100, LORA, "Never", True, False),
    (HALF, A100, LORA, "Always", True, True),
    (SEVEN, L4, LORA, None, True, True),
    (SEVEN, L4, LORA, "Never", True, False),
    (SEVEN, A100, {"method": "Full"}, None, False, True),
    (SEVEN, T4, {"method": "LoRA"}, None, False, True),
    (SEVEN, T4, {"method": "LoRA", "quantization": "NF4"}, None, True, True),
]


@pytest.mark.parametrize(("shape", "device", "tuning", "setting", "fits", "twice"), FITS)
def test_the_micro_batch_is_what_fits(shape, device, tuning, setting, fits, twice):
    training = {"maxLength": 512} | ({"gradientCheckpointing": setting} if setting else {})
    (baseline, *_) = cost(model(tuning=tuning, training=training), shape, device).stages
    fitted = baseline.fitted
    assert (fitted.fits, fitted.checkpointing) == (fits, twice)
    assert fitted.fits == (fitted.memory.total <= USED * device.memory)
    assert fitted.tokens <= MOST_TOKENS
    if not twice and setting is None:
        assert fitted.tokens >= BUSY_TOKENS


def test_on_a_cpu_everything_is_fp32_and_a_micro_batch_is_small():
    (baseline, *_) = cost(model(tuning=LORA), HALF, Device("this machine", 64 * GIB, is_gpu=False)).stages
    assert baseline.fitted.tokens == 3072
    assert not baseline.fitted.checkpointing
    assert baseline.fitted.memory.weights > 4 * HALF.parameters
    assert baseline.seconds is None


@pytest.mark.parametrize(
    ("shape", "training", "device", "has_mask"),
    [
        pytest.param(SEVEN, {}, A100, False, id="varlen attention"),
        pytest.param(SEVEN, {"precision": "fp32"}, A100, True, id="fp32"),
        pytest.param(SEVEN, {}, replace(A100, has_bf16=False), True, id="a GPU without bf16"),
        pytest.param(SEVEN.model_copy(update={"window": 4096}), {}, A100, True, id="a window below maxLength"),
        pytest.param(SEVEN.model_copy(update={"window": 8192}), {}, A100, False, id="a window of maxLength"),
        pytest.param(SEVEN.model_copy(update={"attention_dropout": 0.1}), {}, A100, True, id="dropout of attention"),
    ],
)
def test_a_mask_is_counted_where_training_needs_one(shape, training, device, has_mask):
    resource = model(tuning=LORA, training={"maxLength": 8192, "gradientCheckpointing": "Always"} | training)
    for stage in cost(resource, shape, device).stages:
        fitted = stage.fitted
        memory = MemoryModel(shape, resource.spec.tuning, device.computes_in_bf16(resource.spec), fitted.checkpointing)
        batch = MicroBatchShape(fitted.tokens, 8192, 64, masked=has_mask)
        assert fitted.memory.activations == memory.of(batch).activations


def test_without_a_mask_long_rows_need_no_second_computation():
    fitted = cost(model(tuning=LORA, training={"maxLength": 8192}), SEVEN, A100).stages[0].fitted
    assert (fitted.tokens, fitted.checkpointing) == (8192, False)


def test_baselines_of_one_process_are_counted_together(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    resource = model(tuning=LORA)
    alone, (joint, *others) = (cost(resource, SEVEN, A100, places=places).stages for places in (0, 1))
    assert others == list(alone[1:])
    adapter = MemoryModel(SEVEN, resource.spec.tuning.for_baseline(), mixed=True).trained_weights
    one, four = alone[0].fitted.memory, joint.fitted.memory
    assert (four.gradients, four.optimizer) == (4 * one.gradients, 4 * one.optimizer)
    assert four.weights == one.weights + 4 * 4 * adapter  # in fp32; one of the five is for validation
    assert (alone[0].fitted.runs, joint.fitted.runs) == (1, 4)
    found = cost(resource, SEVEN, A100, places=1)
    print_costs(found)
    assert re.search(r"baseline .* GiB for 4 together", capsys.readouterr().out)
    assert costs_to_json(found)["stages"][0]["memory"]["trainedTogether"] == 4


@pytest.mark.parametrize(
    ("tuning", "device", "places", "runs"),
    [
        pytest.param(LORA, A100, 2, 2, id="two processes"),
        pytest.param(LORA, replace(A100, gpus=2), 1, 1, id="each has several GPUs"),
        pytest.param(LORA, Device("this machine", 80 * GIB, is_gpu=False), 1, 1, id="a CPU"),
        pytest.param(LORA | {"dropout": 0.1}, A100, 1, 1, id="dropout"),
    ],
)
def test_so_many_baselines_train_together(tuning, device, places, runs):
    assert cost(model(tuning=tuning), HALF, device, places=places).stages[0].fitted.runs == runs


def test_a_step_of_baselines_together_has_the_rows_of_all():
    short = {name: RowSample(rows=9, is_complete=True, tokens=2.0) for name in ("urgency", "intent")}
    resource = model(task("urgency"), task("intent"), tuning=LORA, training={"batchRows": 4, "maxLength": 1024})
    alone, joint = (cost(resource, HALF, A100, samples=short, places=places).stages[0] for places in (0, 1))
    assert (alone.fitted.tokens, joint.fitted.tokens) == (4 * 1024, 8 * 1024)
    assert alone.seconds == pytest.approx(2 * joint.seconds) == pytest.approx(LEAST_STEP * alone.steps)


def test_baselines_that_do_not_fit_together_are_counted_one_by_one(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    resource = model(tuning=LORA | {"rank": 256})
    (alone, *_) = cost(resource, SEVEN, A100).stages
    device = replace(A100, memory=round(1.2 * alone.fitted.memory.state / USED))
    found = cost(resource, SEVEN, device, places=1)
    assert found.stages[0].fitted == cost(resource, SEVEN, device).stages[0].fitted
    assert found.stages[0].fitted.fits
    print_costs(found)
    assert "GiB each, 4 together do not fit" in capsys.readouterr().out


def test_the_time_is_measured_or_else_from_flops():
    resource = model(tuning=LORA, training={"maxLength": 512})
    first = cost(resource, HALF, L4)
    (baseline, *_) = first.stages
    operations = training_flops(
        HALF.linear_weights,
        attention=attention_flops(HALF, 512),
        trains_all=False,
        checkpointing=baseline.fitted.checkpointing,
    )
    assert baseline.speed.tokens_per_second == pytest.approx(UTILISATION * 121e12 / operations)
    assert baseline.speed.source == "from FLOPs, at 35% of the 121 TFLOP/s of L4, and at least 20 ms a step"
    assert first.seconds == pytest.approx(sum(stage.tokens / stage.speed.tokens_per_second for stage in first.stages))
    half = {key: value for key, value in all_done(resource, until="filter").items() if "urgency/seed" not in key[0]}
    assert {stage.speed for stage in cost(resource, HALF, L4, half).stages} == {Speed(8000.0, "measured")}
    assert {stage.speed.source for stage in cost(resource, HALF, L4, half, measured=False).stages} == {
        "from FLOPs, at 35% of the 121 TFLOP/s of L4, and at least 20 ms a step"
    }


def test_a_step_of_a_small_model_takes_as_long_as_starting_its_kernels():
    short = {name: RowSample(rows=9, is_complete=True, tokens=2.0) for name in ("urgency", "intent")}
    found = cost(model(task("urgency"), task("intent"), tuning=LORA), HALF, A100, samples=short)
    assert found.seconds == pytest.approx(LEAST_STEP * found.steps)


def test_operations_follow_weights_and_passes():
    linear = 2 * HALF.linear_weights
    operations = {
        (trains_all, checkpointing): training_flops(
            HALF.linear_weights, trains_all=trains_all, checkpointing=checkpointing
        )
        for trains_all in (False, True)
        for checkpointing in (False, True)
    }
    assert [value / linear for value in operations.values()] == [2, 3, 3, 4]


MISFITS = [
    pytest.param(
        SEVEN, L4, {"method": "Full"}, {"optimizer": "AdamW8bit"},
        "; set tuning.method to LoRA, or take a smaller base model, or take a GPU with more memory$",
        id="8-bit moments, which are not divided",
    ),
    pytest.param(
        SEVEN, Device("small", 4 * GIB, is_gpu=True), {"method": "LoRA", "quantization": "NF4"}, {},
        "; take a smaller base model, or take a GPU with more memory$",
        id="a base in 4 bits, which is not divided",
    ),
    pytest.param(
        SEVEN, A100, {"method": "Full"}, {},
        r"baseline, high-.*: does not fit; .* GiB with one sequence of 1,024 tokens .*, and A100 has 80.0; "
        "set tuning.method to LoRA, or set training.optimizer to AdamW8bit, or take a smaller base model, or train on "
        "more GPUs .*, or take a GPU with more",
        id="all weights",
    ),
    pytest.param(
        SEVEN, T4, LORA, {"gradientCheckpointing": "Never"},
        r"baseline, high-.* and T4 has 16.0; set tuning.quantization to NF4, or take a smaller",
        id="a GPU that is too small",
    ),
    pytest.param(
        HALF, Device("small", 4 * GIB, is_gpu=True), LORA, {"gradientCheckpointing": "Never", "maxLength": 8192},
        "set training.gradientCheckpointing to Always, or lower training.maxLength, or take a smaller base model",
        id="rows that are too long",
    ),
    pytest.param(
        SEVEN, Device("this machine", 8 * GIB, is_gpu=False), LORA, {}, "or train on a GPU", id="a CPU"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "device", "tuning", "training", "message"), MISFITS)
def test_what_does_not_fit_is_said_with_what_to_change(shape, device, tuning, training, message):
    resource = model(tuning=tuning, training=training)
    (line,) = misfits(resource, cost(resource, shape, device))
    assert re.search(message, line), line


FULL = {"method": "Full"}
SMALL = Device("small", 4 * GIB, is_gpu=True)
CHANGES = [
    # shape, device, tuning, training, what to change
    (HALF, L4, LORA, {}, None),
    (SEVEN, Device("this machine", 8 * GIB, is_gpu=False), LORA, {}, None),
    (SEVEN, T4, LORA, {}, "change spec.tuning.quantization to NF4"),
    (SEVEN, A100, FULL, {"sharding": "Never"}, "change spec.tuning.method to LoRA"),
    (SEVEN, L4, FULL, {}, "change spec.tuning.method to LoRA"),
    (SEVEN, T4, FULL, {}, "change spec.tuning.method to LoRA, and change spec.tuning.quantization to NF4"),
    (HALF, SMALL, LORA, {"maxLength": 40_000}, "change spec.training.maxLength to 10000"),
    (SEVEN, SMALL, LORA, {}, "change spec.baseModel.uri to a smaller base, or take a GPU with more memory"),
]


@pytest.mark.parametrize(("shape", "device", "tuning", "training", "change"), CHANGES)
def test_the_change_that_is_named_makes_every_stage_fit(shape, device, tuning, training, change):
    resource = model(tuning=tuning, training=training)
    plans = []

    def replan(changed):
        plans.append(cost(changed, shape, device))
        return plans[-1]

    found = cost(resource, shape, device)
    assert next_change(resource, found, replan) == change
    if change and "spec.baseModel" not in change:
        assert any(each.fits for each in plans)
    if change:
        assert found.seconds is None
        assert cost_text(found).endswith("; no time: not all of it fits the GPU")


def test_pretraining_that_does_not_fit_is_to_be_left_out():
    resource = model(tuning=LORA, pretraining={"maxSteps": 5})
    found = cost(resource, SEVEN, A100)
    assert next_change(resource, found, lambda changed: cost(changed, SEVEN, A100)) == "leave out spec.pretraining"


def test_a_training_that_hardly_fits_is_said_to_be_close(capsys):
    resource = model(tuning=LORA)
    least = max(stage.fitted.memory.total for stage in cost(resource, SEVEN, SMALL).stages)  # of one sequence
    for part, close in ((0.91, True), (0.5, False)):
        found = cost(resource, SEVEN, replace(A100, memory=round(least / part)))
        assert found.fits
        assert any(stage.fitted.close for stage in found.stages) is close
        print_costs(found)
        assert ("fits, close" in capsys.readouterr().out) is close


@pytest.mark.parametrize(
    ("device", "gpus", "sharding", "message"),
    [
        pytest.param(A100, 1, None, r"or train on more GPUs .*training.gpusPerNode\), which divide", id="one GPU"),
        pytest.param(A100, 4, None, None, id="four divide the weights"),
        pytest.param(A100, 4, "Never", "set training.sharding to Always, by which", id="four that may not"),
        pytest.param(L4, 4, "Auto", "does not fit", id="four are too few"),
    ],
)
def test_weights_that_several_gpus_divide_fit(device, gpus, sharding, message):
    resource = model(tuning=FULL, training={"sharding": sharding} if sharding else {})
    found = cost(resource, SEVEN, replace(device, gpus=gpus))
    lines = list(misfits(resource, found))
    assert len(lines) == (message is not None)
    assert all(re.search(str(message), line) for line in lines)
    if message is None:
        assert {stage.fitted.gpus for stage in found.stages} == {4}
        assert all(stage.fitted.checkpointing for stage in found.stages)


@pytest.mark.parametrize(
    ("shape", "device", "tuning", "training"),
    [
        pytest.param(SEVEN, A100, FULL, {"optimizer": "AdamW8bit"}, id="8-bit moments"),
        pytest.param(SEVEN, T4, {"method": "LoRA", "quantization": "NF4"}, {}, id="a base in 4 bits"),
    ],
)
def test_what_several_gpus_cannot_divide_each_has_whole(shape, device, tuning, training):
    found = cost(model(tuning=tuning, training=training), shape, replace(device, gpus=4))
    assert {stage.fitted.gpus for stage in found.stages} == {1}


def test_pretraining_that_does_not_fit_is_named():
    resource = model(tuning=LORA, pretraining={"maxSteps": 5})
    (line,) = misfits(resource, cost(resource, SEVEN, A100))
    assert line.startswith("base: does not fit")
    assert "leave out pretraining" in line


def test_nothing_is_said_of_what_is_not_known():
    resource = model()
    for shape, device in ((None, A100), (SEVEN, None)):
        found = cost(resource, shape, device)
        assert list(misfits(resource, found)) == []
        assert {stage.fitted for stage in found.stages} == {None}
        assert found.seconds is None


def test_the_table_has_memory_time_and_gpu_hours(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    found = cost(model(tuning=LORA), HALF, L4)
    print_costs(found)
    output = capsys.readouterr().out
    (baseline,) = [line.split() for line in output.splitlines() if line.strip().startswith("baseline")]
    hours = found.stages[0].seconds / 3600
    assert baseline[:4] == ["baseline", "4", "16,000", f"{16_000 * 64 * 1024:,}"]
    assert hours > 10
    assert baseline[-1] == f"{hours:,.0f}"
    assert "memory: estimated, of the 23.0 GiB of L4" in output
    assert "tokens/s from FLOPs, at 35% of the 121 TFLOP/s of L4" in output
    assert "tokens: all rows counted at training.maxLength" in output
    assert "on top come the start of each stage" in output
    assert f"the baselines are {16_000 / found.steps:.0%} of the tokens" in output
    assert cost_text(found).endswith(", one training after the other")
    data = costs_to_json(found)
    first = data["stages"][0]["memory"]
    parts = ("weights", "gradients", "optimizer", "activations", "loss")
    assert first["bytes"] == sum(first[part] for part in parts)
    assert data["device"] == {"name": "L4", "bytes": 23 * GIB, "gpus": 1}


GPUS = [
    # name, MiB as nvidia-smi reports them, TFLOP/s
    ("A100-40GB", 40960, 312),
    ("NVIDIA A100-SXM4-80GB", 81920, 312),
    ("NVIDIA L4", 23034, 121),
    ("nvidia-l4", 23034, 121),
    ("nvidia-tesla-t4", 15360, 8.1),
    ("NVIDIA L40S", 46068, 362),
    ("NVIDIA GeForce RTX 4090", 24564, 165),
    ("NVIDIA H100 80GB HBM3", 81559, 989),
    ("NVIDIA H100 PCIe", 81559, 756),
    ("NVIDIA-H100-NVL", 95830, 835),
    ("Tesla V100-PCIE-32GB", 32510, 14),
    ("NVIDIA A10G", 23028, None),
    ("RTX4090", 24564, 165),
    ("rtx-4090-24GB", 24564, 165),
    ("RTX6000Ada", 49140, None),
]


@pytest.mark.parametrize(("name", "memory", "tflops"), GPUS)
def test_gpus_by_their_names(name, memory, tflops):
    found = known_gpu(name)
    assert (found.name, found.memory, found.flops) == (name, memory * 2**20, tflops and tflops * 1e12)
    assert sold_gpu(name) == found
    assert found.has_bf16 == (not re.search("T4|V100", name, re.IGNORECASE))


def test_a_slice_of_a_gpu_is_not_the_whole():
    assert known_gpu("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb") is None
    assert known_gpu("A100-1g.5gb") is None


def test_several_gpus_of_a_training_share_its_time_and_each_has_its_hours(capsys):
    hours, seconds = [], []
    for count in (1, 4):
        found = cost(model(tuning=LORA), HALF, replace(A100, gpus=count))
        print_costs(found)
        total = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["total"])
        hours.append(total.split()[-1])
        seconds.append(found.seconds)
    assert hours[0] == hours[1] != "0.00"
    assert seconds[0] == pytest.approx(4 * seconds[1])


def test_an_unknown_gpu_is_refused_with_those_that_are_known():
    assert known_gpu("Voodoo 2") is None
    for name, written in (
        ("Voodoo", "T4, V100, .*, A100-40GB"),
        ("A100-7GB", "A100-40GB, A100-80GB"),
        ("RTX4095", "RTX .*"),
        ("L4-48GB", "L4-24GB"),
    ):
        message = f"^--gpu {name}: not a GPU that is known here; write one of {written}, or its memory, such as 24GB$"
        with pytest.raises(UserError, match=message):
            named_device(name)


def test_of_a_gpu_by_its_memory_no_speed_is_known():
    device = named_device("24GB")
    assert (device.memory, device.flops) == (24 * 10**9, None)
    assert known_gpu("24GB") is None, "a label of a node means something else"
    found = cost(model(tuning=LORA), HALF, device)
    assert found.fits
    assert found.seconds is None


def test_a_gpu_without_bf16_is_planned_in_fp32(capsys):
    device = named_device("T4")
    resource, full = model(tuning=LORA), model(tuning=LORA, training={"precision": "fp32"})
    planned = cost(resource, HALF, device)
    assert planned == cost(full, HALF, device)
    assert planned.stages[0].fitted.memory.weights > 4 * HALF.parameters
    assert "35% of the 8 TFLOP/s of T4" in planned.stages[0].speed.source
    assert "35% of the 60 TFLOP/s in TF32 of L4" in cost(full, HALF, named_device("L4")).stages[0].speed.source
    print_costs(planned)
    output = capsys.readouterr().out
    assert "precision: fp32, because T4 has no bf16" in output
    assert "PyTorch has no kernels" not in output
    print_costs(cost(resource, HALF, named_device("V100-16GB")))
    assert "warning: PyTorch has no kernels for V100-16GB" in capsys.readouterr().out


def test_the_drivers_tool_says_what_gpu_there_is():
    assert gpus.parse("NVIDIA L4, 23034\nNVIDIA L4, 23034\n") == GpuModel("NVIDIA L4", 23034 * 2**20, 121e12)
    assert gpus.parse("Something new, 1000\n") == GpuModel("Something new", 1000 * 2**20, None)
    assert gpus.parse("No devices were found\n") is None


def test_a_group_of_one_task_has_its_line_though_the_rank_fits_no_experts_of_it():
    groups = model(
        task("urgency"), task("intent"), task("reply", "Generation"), tuning={"method": "CGCLoRA", "rank": 9}
    )
    _, lora = tuning_lines(groups, graph_of(groups))
    assert lora == "trained weights, generation, baselines: LoRA of rank 9, α 32, on all projections"


def test_groups_that_train_the_same_weights_share_a_line():
    resource = model(tuning={"method": "CGCLoRA", "rank": 16})
    experts, lora = tuning_lines(resource, graph_of(resource))
    assert experts.startswith("trained weights, classification: CGC-LoRA: 4 experts of rank 4 (1 common, 1 for each")
    assert experts.endswith("each task is served as a LoRA of rank 8")
    assert lora == "trained weights, generation, baselines: LoRA of rank 16, α 32, on all projections"


def test_plans_divide_weights_by_the_rule_of_training():
    resource = model(tuning=FULL, training={"maxLength": 128})
    state = TRAINED_BYTES * HALF.parameters
    for part, parts in ((0.74, 1), (0.76, 4)):
        device = Device("GPU", round(state / part), is_gpu=True, gpus=4)
        baseline = cost(resource, HALF, device).stages[0]
        assert divides_weights(None, 4, state, device.memory) == (parts == 4)
        assert baseline.fitted.gpus == parts
    assert baseline.fitted.memory.state == pytest.approx(state / 4, rel=0.001)
    assert baseline.fitted.fits


def test_of_a_frozen_base_each_gpu_has_a_part_and_all_adapters():
    whole, parts = (MemoryModel(SEVEN, Tuning(method="LoRA"), mixed=True, gpus=count) for count in (1, 4))
    batch = MicroBatchShape(512, 512, 64)
    adapters = 4 * whole.trained_weights
    assert parts.of(batch).optimizer == whole.of(batch).optimizer
    assert parts.of(batch).weights - adapters == pytest.approx((whole.of(batch).weights - adapters) / 4)
    assert parts.of(batch).activations > whole.of(batch).activations  # layers are gathered


def test_a_check_has_one_gpu():
    resource, four = model(tuning=LORA), replace(A100, gpus=4)
    graph = graph_of(resource)
    counts = {
        kind: training_of(Node(f"{kind}/urgency", kind, NodeState.READY), graph, resource.spec).gpus_on(four)
        for kind in ("baseline", "check")
    }
    assert counts == {"baseline": 4, "check": 1}


def test_the_scheduler_of_this_machine_counts_on_the_memory_that_plans_say():
    resource, machine = model(tuning=LORA), Capacity(cores=16, memory=64 * GIB)
    manifests = all_done(resource, until="baseline")
    (key,) = [key for key in manifests if key[0] == "base"]
    result = manifests[key].result | {"shape": HALF.to_json(), "parameters": HALF.parameters}
    manifests[key] = manifests[key].model_copy(update={"result": result})
    graph = graph_of(resource, manifests)
    baseline = next(node for node in graph.nodes if node.kind == "baseline")
    planned = cost(resource, HALF, Device("this machine", 64 * GIB, is_gpu=False), manifests).stages[0]
    assert stage_needs(baseline, graph, resource.spec, machine).memory - RUNTIME_BYTES == planned.fitted.memory.total
