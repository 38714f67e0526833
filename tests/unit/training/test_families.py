"""Tiny models of many families: the way in which the stage ``base`` chooses to run them, and that it is exact.

What the engine answers and what training computes is compared with plain transformers, one row and one label at a time,
without cache and without masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from multitask_api.bundle import ForwardPath
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_trainer.base_model.checks.base import check_base
from multitask_trainer.base_model.loading import read_forward_path, write_forward_path
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.training.batching.layouts import packed, padded
from multitask_trainer.training.loss import RowMeanLoss
from support.engine_builders import tokenizer
from support.plain_answers import (
    ANSWER,
    SENTIMENT,
    TEXTS,
    greedy_answers,
    label_scores,
    plain_model,
    prompt_ids,
    single_logits,
)
from support.tiny_families import EXPERTS, HYBRID, PLAIN, SCALED, WINDOWED, WRAPPED, write_tiny_base

MASKS = ForwardPath()
EAGER = ForwardPath(attention="eager")
ROWS = ForwardPath(isolation="Rows", labels="PromptState")
EAGER_ROWS = ForwardPath(attention="eager", isolation="Rows", labels="PromptState")
PARTIAL_ROWS = ForwardPath(isolation="Rows", labels="PromptState", partial_gradients=True)
EQUAL_LENGTHS = ForwardPath(attention="eager", isolation="Rows", labels="PromptState", batches="EqualLengths")

PATHS: dict[str, ForwardPath] = {
    **dict.fromkeys([*PLAIN, *SCALED, *WINDOWED, *EXPERTS, *WRAPPED], MASKS),
    **dict.fromkeys(HYBRID, ROWS),
    **dict.fromkeys(["gptj", "codegen", "gemma2", "gpt_oss"], EAGER),
    **dict.fromkeys(["mamba", "falcon_mamba"], EQUAL_LENGTHS),
    **dict.fromkeys(["mamba2", "gpt_neo", "bloom", "mpt"], EAGER_ROWS),
    **dict.fromkeys(["deepseek_v32", "glm_moe_dsa"], PARTIAL_ROWS),
    "hyperclovax": ForwardPath(logits_scaling="Multiplies"),
    "falcon_alibi": ROWS,
    "xglm": EAGER,
}
del PATHS["recurrent_gemma"]


@pytest.fixture(params=PATHS)
def family(request, tmp_path) -> tuple[str, Path]:
    """A family's name and its base model, tested as in the stage ``base``."""
    base = write_tiny_base(request.param, tmp_path / "base" / "model", tokenizer())
    check_base(base, "bf16")
    return request.param, base


def test_a_family_is_run_as_its_layers_need_and_gives_the_answers_of_plain_transformers(family, tmp_path):
    name, base = family
    path = read_forward_path(base)
    assert path == PATHS[name]

    bundle = assemble_bundle(
        tmp_path / "bundle",
        base=base,
        servables=[ServableWeights("whole", base.parent)],
        tasks=[TaskBinding(SENTIMENT, "whole"), TaskBinding(ANSWER, "whole")],
        precision="fp32",
        max_length=80,
        revision="r",
    )
    engine = Engine.load(tmp_path / "bundle")
    plain = plain_model(name, base)
    sentiment, answer = bundle.tasks

    answers = engine.classify([Request("sentiment", {"text": text}) for text in TEXTS])
    actual = [[row.log_probs[label.label] for label in sentiment.labels] for row in answers]
    np.testing.assert_allclose(actual, label_scores(plain, sentiment), atol=2e-3)

    texts = engine.generate_all([Request("answer", {"text": text}) for text in TEXTS])
    assert [text.tokens for text in texts] == greedy_answers(plain, answer)

    eos, prompts = sentiment.eos, prompt_ids(sentiment)
    rows = [(np.array([*p, *range(5, 5 + n), eos], dtype=np.int32), len(p)) for n, p in enumerate(prompts)]
    single = [
        float(cross_entropy(single_logits(plain, ids[:-1])[start - 1 :], torch.tensor(ids[start:]).long()))
        for ids, start in rows
    ]
    layouts = [padded(rows, batch_rows=len(rows), token_budget=500, mixed_lengths=path.right_padding)]
    if path.isolation == "Masks":
        layouts.append(packed(rows, batch_rows=len(rows), token_budget=500, width=120))
    loss = RowMeanLoss(plain, path).eval()
    for layout in layouts:
        with torch.no_grad():
            assert sum(float(loss(batch)) for batch in layout) == pytest.approx(np.mean(single), rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "minicpm3", "mamba", "mamba2", "falcon_mamba", "nemotron_h"])
def test_a_family_is_served_in_bf16(name, tmp_path):
    """Some keep their states in fp32 whatever the weights are, some scale before the head."""
    base = write_tiny_base(name, tmp_path / "base" / "model", tokenizer())
    write_forward_path(PATHS[name], base)
    bundle = assemble_bundle(
        tmp_path / "bundle",
        base=base,
        servables=[ServableWeights("whole", base.parent)],
        tasks=[TaskBinding(SENTIMENT, "whole"), TaskBinding(ANSWER, "whole")],
        precision="bf16",
        max_length=80,
        revision="r",
    )
    engine = Engine.load(tmp_path / "bundle")
    sentiment = bundle.tasks[0]
    answers = engine.classify([Request("sentiment", {"text": text}) for text in TEXTS])
    actual = np.array([[row.log_probs[label.label] for label in sentiment.labels] for row in answers])
    expected = np.array(label_scores(plain_model(name, base).to(torch.bfloat16), sentiment))
    np.testing.assert_allclose(actual, expected, atol=0.02 * expected.std())
    assert engine.generate_all([Request("answer", {"text": TEXTS[0]})])[0].tokens
