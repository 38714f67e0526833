"""The estimate of training's memory against what torch allocates on a CPU, and the shapes it is made from."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from multitask_api.estimates.memory import MOST_LOGITS, MemoryModel, MicroBatchShape
from multitask_api.estimates.shape import FAMILIES, ModelShape
from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.model.masks import LayerMasks
from support.allocations import Setting, llama

pytestmark = pytest.mark.usefixtures("uncompiled")

TOLERANCE = 0.15
LORA = Tuning(method="LoRA", rank=8)
METHODS = {"Full": Tuning(method="Full"), "LoRA": LORA, "CGCLoRA": Tuning(method="CGCLoRA", rank=9)}

GRID = [
    pytest.param(
        Setting(llama(width), METHODS[name], rows=rows, length=48, checkpointing=checkpointing),
        id=f"{name}, width {width}, {rows} rows{', checkpointing' if checkpointing else ''}",
    )
    for name, width, rows, checkpointing in itertools.product(METHODS, (64, 128), (2, 8), (False, True))
]
_USUAL = Setting(llama(64), LORA, rows=6, length=40)
OTHERS = [
    *(
        pytest.param(
            replace(_USUAL, tuning=tuning, mixed=True, checkpointing=checkpointing),
            id=f"bf16, {name}{', checkpointing' if checkpointing else ''}",
        )
        for (name, tuning), checkpointing in itertools.product(METHODS.items(), (False, True))
    ),
    pytest.param(replace(_USUAL, answer=40), id="every token is a target"),
    pytest.param(replace(_USUAL, config=llama(64, vocab_size=8192), answer=20), id="a large vocabulary"),
    pytest.param(
        replace(_USUAL, config=llama(64, vocab_size=4096, tie_word_embeddings=False), tuning=METHODS["Full"]),
        id="a head of its own",
    ),
    pytest.param(replace(_USUAL, packed=True, length=96), id="packed"),
    pytest.param(replace(_USUAL, packed=True, length=96, mixed=True), id="packed, bf16"),
    pytest.param(
        replace(_USUAL, tuning=Tuning(method="LoRA", rank=8, target_modules=("q_proj", "v_proj"))), id="two targets"
    ),
    pytest.param(replace(_USUAL, tuning=Tuning(method="LoRA", rank=8, dropout=0.1)), id="dropout"),
    *(
        pytest.param(
            replace(_USUAL, config=llama(128), tuning=Tuning(method="LoRA", rank=32), rows=8, mixed=mixed, runs=4),
            id=f"several runs{', bf16' if mixed else ''}",
        )
        for mixed in (False, True)
    ),
    *(
        pytest.param(replace(_USUAL, config=llama(64, model_type=family)), id=family)
        for family in sorted(FAMILIES - {"llama"})
    ),
    pytest.param(replace(_USUAL, config=llama(64, model_type="qwen3"), tuning=METHODS["Full"]), id="qwen3, Full"),
    *(
        pytest.param(
            replace(_USUAL, config=llama(128, **head), tuning=tuning, optimizer="AdamW8bit"),
            id=f"8-bit moments, {name}",
        )
        for name, tuning, head in (
            ("Full", METHODS["Full"], {}),
            ("Full, a head of its own", METHODS["Full"], {"tie_word_embeddings": False}),
            ("LoRA", Tuning(method="LoRA", rank=32), {}),
        )
    ),
    *(
        pytest.param(
            replace(_USUAL, config=llama(128), tuning=tuning, mixed=mixed, checkpointing=mixed),
            id=f"NF4, {tuning.method}{', bf16, checkpointing' if mixed else ''}",
        )
        for tuning in (
            Tuning(method="LoRA", rank=8, quantization="NF4"),
            Tuning(method="CGCLoRA", rank=9, quantization="NF4"),
        )
        for mixed in (False, True)
    ),
]


@pytest.mark.parametrize("setting", [*GRID, *OTHERS])
def test_the_estimate_is_what_is_allocated(setting: Setting):
    estimated, measured = setting.estimated(), setting.measured()
    assert estimated.weights == pytest.approx(measured.weights, rel=0.01)
    assert estimated.gradients == pytest.approx(measured.gradients, rel=0.05)  # without the gates of CGC-LoRA
    assert estimated.optimizer == pytest.approx(measured.optimizer, rel=0.05)
    assert estimated.activations + estimated.loss == pytest.approx(measured.passes, rel=TOLERANCE)
    assert estimated.total == pytest.approx(measured.total, rel=TOLERANCE)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_shape_has_as_many_weights_as_the_model(family, tied):
    settings = llama(64, model_type=family, num_hidden_layers=3, head_dim=24, tie_word_embeddings=tied)
    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = ModelShape.of_config(config.to_dict())
    assert shape is not None
    assert shape.parameters == model.num_parameters()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="empty"),
        pytest.param(llama(64, model_type="mamba"), id="a family that is not estimated"),
        pytest.param(llama(64, hidden_size=None), id="no width"),
        pytest.param(llama(64, num_attention_heads=0), id="no heads"),
        pytest.param(llama(64, num_hidden_layers="many"), id="not a number"),
        pytest.param(llama(64, quantization_config={"bits": 4}), id="quantised"),
    ],
)
def test_no_shape_of(config):
    assert ModelShape.of_config(config) is None


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"model_type": "llama"}, None),
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "mistral", "sliding_window": 100}, 100),
        ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": False}, None),
        ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": True}, None),
        ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": True, "max_window_layers": 2}, 100),
        ({"model_type": "qwen3", "sliding_window": 100, "layer_types": ["full_attention"] * 4}, None),
    ],
)
def test_a_shape_has_the_window_that_training_finds(config, window):
    settings = llama(64, **config)
    loaded = AutoConfig.for_model(**settings)
    assert LayerMasks.of(loaded).reach == window
    for each in (settings, loaded.to_dict()):
        assert ModelShape.of_config(each).window == window


def test_a_shape_says_whether_attention_has_dropout():
    dropouts = [ModelShape.of_config(llama(64, attention_dropout=rate)).attention_dropout for rate in (0.1, 0.0)]
    assert dropouts == [0.1, None]


def test_the_loss_in_parts_bounds_the_logits():
    shape = ModelShape.of_config(llama(64, vocab_size=152_000))
    assert shape is not None
    model = MemoryModel(shape, LORA, mixed=True)
    batches = [MicroBatchShape(4096, 512, targets) for targets in (1, 2048, 4096)]
    one, half, all_tokens = (model.of(batch).activations + model.of(batch).loss for batch in batches)
    assert one < half == all_tokens < one + 12 * MOST_LOGITS
