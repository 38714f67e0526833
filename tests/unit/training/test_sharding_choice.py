"""When the processes of a training divide its weights, and what is said where they cannot."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from multitask_api.bundle import ForwardPath
from multitask_api.estimates.sharding import divides_weights
from multitask_api.resource.tuning import Tuning
from multitask_trainer.base_model.loading import load_base
from multitask_trainer.errors import StageError
from multitask_trainer.training.parallelism.choice import choose_parallelism, sharding_problem, state_bytes
from multitask_trainer.training.parallelism.data_parallel import DataParallel
from multitask_trainer.training.parallelism.fully_sharded import FullySharded
from multitask_trainer.tuning import tuning_method
from support.training_fixtures import small_decoder

METHODS = {name: tuning_method(Tuning.model_validate({"method": name, "rank": 4}), ("a",)) for name in ("Full", "LoRA")}


@pytest.mark.parametrize(
    ("method", "dtype", "bytes_a_weight"),
    [("Full", torch.float32, 16), ("LoRA", torch.float32, 4), ("LoRA", torch.bfloat16, 2)],
)
def test_whole_weights_may_take_three_quarters_of_the_free_memory(method, dtype, bytes_a_weight):
    model = METHODS[method].prepare(small_decoder().to(dtype))
    base = sum(value.numel() for name, value in model.named_parameters() if "lora" not in name)
    adapter = sum(value.numel() for value in model.parameters()) - base
    states = base * bytes_a_weight + adapter * 16
    assert state_bytes(model.parameters()) == states
    assert not divides_weights("Auto", 2, states, states * 4 // 3 + 2)
    assert divides_weights("Auto", 2, states, states * 4 // 3 - 2)


def test_one_process_has_nobody_to_share_with():
    model = METHODS["Full"].prepare(small_decoder())
    with pytest.raises(StageError, match=r"^training.sharding: Always: this stage runs in one process.*gpusPerNode"):
        choose_parallelism("Always", model, METHODS["Full"], ForwardPath(), Accelerator(cpu=True))


class TwoProcesses(Accelerator):
    """On a CPU; the choice asks the others for nothing there."""

    num_processes = 2


@pytest.mark.parametrize(
    ("sharding", "expected"),
    [(None, DataParallel), ("Auto", DataParallel), ("Never", DataParallel), ("Always", FullySharded)],
)
def test_processes_on_a_cpu_divide_weights_only_if_they_always_do(sharding, expected):
    model = METHODS["Full"].prepare(small_decoder())
    chosen = choose_parallelism(sharding, model, METHODS["Full"], ForwardPath(), TwoProcesses(cpu=True))
    assert type(chosen) is expected


def test_weights_that_not_every_row_reaches_are_divided_only_while_they_are_frozen():
    path = ForwardPath(partial_gradients=True)
    said = {
        name: sharding_problem(method.prepare(small_decoder()), method, path, 2) for name, method in METHODS.items()
    }
    assert "such as experts" in said["Full"]
    assert said["LoRA"] is None


def test_a_model_without_values_has_the_parameters_of_the_one_that_is_read(tmp_path):
    small_decoder().save_pretrained(tmp_path)
    skeleton, model = load_base(tmp_path, torch.bfloat16, on_meta=True), load_base(tmp_path, torch.bfloat16)
    assert {value.device.type for value in (*skeleton.parameters(), *skeleton.buffers())} == {"meta"}
    assert shapes(skeleton.named_parameters()) == shapes(model.named_parameters())
    assert shapes(skeleton.named_buffers()) == shapes(model.named_buffers())
    assert skeleton.lm_head.weight is skeleton.model.embed_tokens.weight


def shapes(named):
    return [(name, value.shape, value.dtype) for name, value in named]
