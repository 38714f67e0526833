"""What plain transformers answers: one sequence at a time, without cache and without masks. The engine must agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from multitask_api.bundle import GenerationSettings, ServedTask
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_serving.engine.prompt.encoding import encode_prompt
from support.engine_builders import tokenizer
from support.tiny_families import WRAPPED

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


def plain_model(family: str, folder: Path) -> PreTrainedModel:
    """The model in ``folder``, of one of `tiny_families`, in fp32 as transformers loads it."""
    kind = AutoModelForImageTextToText if family in WRAPPED and family != "gemma3" else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def prompt_ids(task: ServedTask) -> list[tuple[int, ...]]:
    """The prompt of each of `TEXTS`."""
    encoded = [encode_prompt(task.pieces, {"text": text}, tokenizer(), max_tokens=60, bos=task.bos) for text in TEXTS]
    return [tuple(prompt.ids) for prompt in encoded]


def label_scores(model: torch.nn.Module, task: ServedTask) -> list[list[float]]:
    """Σ log p over each label's tokens and the end of the answer, in nats: a list of labels for each of `TEXTS`."""
    return [[_log_prob(model, prompt, [*label.ids, task.eos]) for label in task.labels] for prompt in prompt_ids(task)]


def greedy_answers(model: torch.nn.Module, task: ServedTask, tokens: int = 5) -> list[tuple[int, ...]]:
    """The most probable continuation of each of `TEXTS`, every token from a whole forward pass."""
    return [_greedy(model, prompt, task.eos, tokens) for prompt in prompt_ids(task)]


def single_logits(model: torch.nn.Module, ids: Sequence[int]) -> torch.Tensor:
    """The logits of one sequence alone (T, V)."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits.float()


def _log_prob(model: torch.nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> float:
    log_probs = single_logits(model, [*prompt, *answer[:-1]])[len(prompt) - 1 :].log_softmax(-1)
    return float(log_probs[range(len(answer)), list(answer)].sum())


def _greedy(model: torch.nn.Module, prompt: Sequence[int], eos: int, tokens: int) -> tuple[int, ...]:
    ids = list(prompt)
    while len(ids) - len(prompt) < tokens and (len(ids) == len(prompt) or ids[-1] != eos):
        ids.append(int(single_logits(model, ids)[-1].argmax()))
    return tuple(ids[len(prompt) :])
