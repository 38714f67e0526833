"""What `training_speed.py` trains: random bases of known shapes, rows of mixed length, and what a step costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from multitask_trainer.training.batching.batches import EncodedRow
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.sampler import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TASKS = ("task-0", "task-1", "task-2")
_ROWS_PER_TASK = 4096


@dataclass(frozen=True)
class Shape:
    """A decoder of the family Llama or Qwen2."""

    family: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool

    def model(self, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
        """A random model, made on ``device``; the same for the same seed of torch, device and dtype."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(
            self.family, hidden_size=self.width, num_hidden_layers=self.layers, num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads, intermediate_size=self.intermediate, vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied, max_position_embeddings=4096, use_cache=False, bos_token_id=None,
            eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")

    @property
    def projections(self) -> int:
        """Weights of a layer that multiply each token."""
        kv = self.width // self.heads * self.kv_heads
        return self.width * (2 * self.width + 2 * kv + 3 * self.intermediate)

    @property
    def parameters(self) -> int:
        """Weights of the whole model, norms and biases left out."""
        return self.layers * self.projections + self.vocabulary * self.width * (1 if self.tied else 2)


SHAPES = {
    "tiny": Shape("llama", 64, 4, 4, 2, 192, 2048, True),
    "small": Shape("llama", 256, 6, 4, 2, 768, 16384, True),
    "smollm2": Shape("llama", 576, 30, 9, 3, 1536, 49152, True),
    "0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, True),
    "1.5b": Shape("qwen2", 1536, 28, 12, 2, 8960, 151936, True),
    "7b": Shape("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
}
"""By name: SmolLM2-135M, Qwen2.5-0.5B, -1.5B and -7B, and two for a CPU."""

LENGTHS = {"short": (60, 0.8, 16, 512), "long": (300, 0.8, 32, 2048)}
"""Tokens of a row: median and σ of the log-normal distribution, least and most. ``short`` is like classification."""


@dataclass(frozen=True)
class SpeedRows:
    """Rows of three tasks with random ids, and which of them each step takes."""

    datasets: tuple[EncodedDataset, ...]
    sampler: Sampler
    batch_rows: int

    @classmethod
    def of(cls, lengths: str, *, vocabulary: int, batch_rows: int, seed: int = 0) -> SpeedRows:
        """Answers have 1 to 4 tokens and EOS; all is drawn with ``seed``."""
        generator = np.random.default_rng(seed)
        median, sigma, least, most = LENGTHS[lengths]
        datasets = []
        for _ in TASKS:
            drawn = np.exp(generator.normal(np.log(median), sigma, _ROWS_PER_TASK))
            rows = [generator.integers(1, vocabulary, int(length)) for length in drawn.clip(least, most)]
            answers = generator.integers(2, 6, _ROWS_PER_TASK)  # with EOS
            prompts = [row[:-answer].tolist() for row, answer in zip(rows, answers, strict=True)]
            targets = [row[-answer:].tolist() for row, answer in zip(rows, answers, strict=True)]
            datasets.append(EncodedDataset.of(prompts, targets))
        sampler = Sampler(
            dict.fromkeys(TASKS, 1 / len(TASKS)),
            dict.fromkeys(TASKS, _ROWS_PER_TASK),
            batch_rows=batch_rows,
            seed=seed,
        )
        return cls(tuple(datasets), sampler, batch_rows)

    def at(self, step: int) -> list[EncodedRow]:
        """The global batch of ``step``, in the sampler's order."""
        batch = self.sampler.at(step)
        return [self.datasets[task].row(row) for task, row in zip(batch.tasks, batch.rows, strict=True)]


@dataclass(frozen=True)
class StepSize:
    """What a step has to compute, whatever the layout: inputs without padding, and targets."""

    tokens: int
    targets: int
    squares: int
    """Σ over rows of (input tokens)²."""

    @classmethod
    def of(cls, rows: list[EncodedRow]) -> StepSize:
        """A row's last token is only ever a target."""
        lengths = [len(ids) - 1 for ids, _ in rows]
        targets = sum(len(ids) - prompt for ids, prompt in rows)
        return cls(sum(lengths), targets, sum(length**2 for length in lengths))

    def __add__(self, other: StepSize) -> StepSize:
        return StepSize(self.tokens + other.tokens, self.targets + other.targets, self.squares + other.squares)


def model_flops(shape: Shape, size: StepSize, *, trained: int, full: bool) -> float:
    """FLOPs that the step needs: forward and backward, without padding and without what checkpointing repeats.

    With N the weights of the layers' projections, V · H those of the head, P of the adapters (``trained``), T tokens,
    t targets, S_i the tokens of row i, A = heads · head width, L layers:

    Full: 6 · (N · T + V · H · t) + 6 · L · A · Σ S_i²
    adapters: 4 · (N · T + V · H · t) + 6 · P · T + 6 · L · A · Σ S_i²

    A weight costs 2 FLOPs a token forward, 2 for the gradient of its input, and 2 for its own, which a frozen one has
    not. Attention costs 4 · A FLOPs a pair of tokens and layer forward and twice that backward; causal attention has
    S² / 2 pairs. The head is needed at targets only, so a program that runs it everywhere gets no credit for it.
    """
    dense = shape.layers * shape.projections * size.tokens + shape.vocabulary * shape.width * size.targets
    pairs = 6 * shape.layers * shape.width * size.squares
    return (6 * dense if full else 4 * dense + 6 * trained * size.tokens) + pairs
