"""Tiny models of many families: the way in which the stage ``base`` chooses to run them, and that it is exact.

What the engine answers and what training computes is compared with plain transformers, one row and one label at a time,
without cache and without masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from multitask_api.bundle import ForwardPath, GenerationSettings
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.prompt.encoding import encode_prompt
from multitask_serving.engine.types import Request
from multitask_trainer.base_model.checks.base import check_base
from multitask_trainer.base_model.loading import read_forward_path
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.training.batching.batches import packed, padded
from multitask_trainer.training.loss import RowMeanLoss
from support.engine_builders import tokenizer
from support.tiny_families import EXPERTS, HYBRID, PLAIN, SCALED, WINDOWED, WRAPPED, write_tiny_base

MASKS = ForwardPath()
EAGER = ForwardPath(attention="eager")
ROWS = ForwardPath(isolation="Rows", labels="PromptState")
EAGER_ROWS = ForwardPath(attention="eager", isolation="Rows", labels="PromptState")
EQUAL_LENGTHS = ForwardPath(attention="eager", isolation="Rows", labels="PromptState", batches="EqualLengths")

PATHS: dict[str, ForwardPath] = {
    **dict.fromkeys([*PLAIN, *SCALED, *WINDOWED, *EXPERTS, *WRAPPED], MASKS),
    **dict.fromkeys(HYBRID, ROWS),
    **dict.fromkeys(["gptj", "codegen", "gemma2", "gpt_oss"], EAGER),
    **dict.fromkeys(["mamba", "falcon_mamba"], EQUAL_LENGTHS),
    **dict.fromkeys(["mamba2", "gpt_neo", "bloom", "mpt"], EAGER_ROWS),
    "falcon_alibi": ROWS,
    "xglm": EAGER,
}
del PATHS["recurrent_gemma"]

SENTIMENT = TaskDefinition(
    name="sentiment",
    type="Classification",
    labels=("very good", "good", "very bad", "bad", "no opinion"),
    prompt="{text}\nOpinion:",
    metric="Accuracy",
)
ANSWER = TaskDefinition(
    name="answer",
    type="Generation",
    prompt="{text}\nReply:",
    metric="ExactMatch",
    generation=GenerationSettings(max_new_tokens=5),
)
TEXTS = (
    "the parcel came",
    "Is my invoice right? I was charged twice, and nobody answers the phone",
    "refund",
    "a card!",
)


def single_logits(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """The logits of one sequence alone (T, V), as plain transformers gives them."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


def label_log_prob(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Σ log p over the answer's tokens."""
    log_probs = single_logits(model, [*prompt, *answer[:-1]])[len(prompt) - 1 :].log_softmax(-1)
    return float(log_probs[range(len(answer)), list(answer)].sum())


def greedy(model: PreTrainedModel, prompt: Sequence[int], eos: int, tokens: int) -> tuple[int, ...]:
    """The most probable continuation, every token from a whole forward pass."""
    ids = list(prompt)
    while len(ids) - len(prompt) < tokens and (len(ids) == len(prompt) or ids[-1] != eos):
        ids.append(int(single_logits(model, ids)[-1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.fixture(params=PATHS)
def family(request, tmp_path) -> tuple[str, Path]:
    """A family's name and its base model, tested as in the stage ``base``."""
    base = write_tiny_base(request.param, tmp_path / "base" / "model", tokenizer())
    check_base(base)
    return request.param, base


@cache
def prompts(task: TaskDefinition) -> tuple[tuple[int, ...], ...]:
    from multitask_serving.engine.prompt.encoding import bos_ids, compile_pieces

    pieces = compile_pieces(task.prompt, tokenizer())
    bos = bos_ids(tokenizer())
    encoded = [encode_prompt(pieces, {"text": text}, tokenizer(), max_tokens=60, bos=bos) for text in TEXTS]
    return tuple(tuple(prompt.ids) for prompt in encoded)


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
    kind = AutoModelForImageTextToText if name in WRAPPED and name != "gemma3" else AutoModelForCausalLM
    plain = kind.from_pretrained(base, dtype=torch.float32).eval()
    eos = tokenizer().eos_token_id

    answers = engine.classify([Request("sentiment", {"text": text}) for text in TEXTS])
    labels = bundle.tasks[0].labels
    expected = [[label_log_prob(plain, p, [*label.ids, eos]) for label in labels] for p in prompts(SENTIMENT)]
    actual = [[answer.log_probs[label.label] for label in labels] for answer in answers]
    np.testing.assert_allclose(actual, expected, atol=2e-3)

    texts = engine.generate_all([Request("answer", {"text": text}) for text in TEXTS])
    assert [text.tokens for text in texts] == [greedy(plain, p, eos, 5) for p in prompts(ANSWER)]

    rows = [(np.array([*p, *range(5, 5 + n), eos], dtype=np.int32), len(p)) for n, p in enumerate(prompts(SENTIMENT))]
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
