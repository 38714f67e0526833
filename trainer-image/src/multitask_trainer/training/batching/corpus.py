"""Pre-training text as token shards on disk, memory-mapped: the tasks' own rows, and a corpus as far as it is needed.

Shards are made once and survive a restart in the stage's work folder; an incomplete one has a temporary name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multitask_serving.engine.prompt.compiling import prefix_ids
from multitask_trainer.errors import StageError
from multitask_trainer.training.batching.batches import MicroBatch
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.sampler import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARD_TOKENS = 1 << 23
_TEXTS_AT_ONCE = 256


def write_task_text(folder: Path, datasets: Sequence[EncodedDataset]) -> None:
    """All rows of the tasks as one shard; each row begins with the prompt's BOS and ends with EOS."""
    if not (folder / "tasks.bin").exists():
        _write(folder / "tasks.bin", [dataset.ids for dataset in datasets])


def unused_text_warning(folder: Path, length: int) -> str | None:
    """A warning if the tasks' text is too short for one block and other text fills the batches; None otherwise."""
    tokens = {shard.name: shard.stat().st_size // 4 for shard in folder.glob("*.bin")}
    own = tokens.get("tasks.bin")
    if own is None or own > length or max(tokens.values()) <= length:
        return None
    return (
        f"pretraining: the tasks' text is {own:,} tokens, less than one block of training.maxLength, {length:,}, and"
        " was not trained on; lower training.maxLength, or set pretraining.tasksText: false"
    )


def write_corpus(
    folder: Path, sources: Sequence[Iterable[str]], tokenizer: PreTrainedTokenizerFast, tokens_needed: int
) -> None:
    """Tokenize texts into shards until they have ``tokens_needed`` tokens or the text ends; sources take turns.

    A restart skips the texts of existing shards, which is cheap compared with tokenizing them.
    """
    if (folder / "corpus.done").exists():
        return
    shards = _corpus_shards(folder)
    texts_done = int(shards[-1].stem.rpartition("-")[2]) if shards else 0
    tokens = sum(shard.stat().st_size // 4 for shard in shards)
    texts = islice(_round_robin(sources), texts_done, None)
    parts: list[NDArray[np.uint32]] = []
    while tokens < tokens_needed and (batch := list(islice(texts, _TEXTS_AT_ONCE))):
        texts_done += len(batch)
        parts.append(_tokenize(batch, tokenizer))
        size = sum(len(part) for part in parts)
        if size >= min(SHARD_TOKENS, tokens_needed - tokens):
            _write(folder / f"corpus-{len(shards):05d}-{texts_done}.bin", parts)
            shards, parts, tokens = _corpus_shards(folder), [], tokens + size
    if parts:
        _write(folder / f"corpus-{len(shards):05d}-{texts_done}.bin", parts)
    (folder / "corpus.done").touch()


@dataclass(frozen=True)
class TextBatches:
    """Random blocks of ``length`` + 1 tokens, without replacement in each epoch; every token predicts the next."""

    shards: tuple[NDArray[np.uint32], ...]
    sampler: Sampler
    length: int
    batch_rows: int
    token_budget: int
    process: int = 0
    processes: int = 1

    @classmethod
    def of(
        cls, folder: Path, *, length: int, batch_rows: int, seed: int, token_budget: int, process: int, processes: int
    ) -> TextBatches:
        """Over all shards in ``folder``. Raises `StageError` if there is no text."""
        every = tuple(np.memmap(path, dtype=np.uint32, mode="r") for path in sorted(folder.glob("*.bin")))
        shards: tuple[NDArray[np.uint32], ...] = tuple(shard for shard in every if len(shard) > length)
        if not shards and every:
            joined = np.concatenate(every)  # less text than one block: repeat it
            shards = (np.resize(joined, length + 1),)
        if not shards:
            raise StageError("pretraining: there is no text; set tasksText: true or name a corpus")
        blocks = sum((len(shard) - 1) // length for shard in shards)
        sampler = Sampler({"text": 1.0}, {"text": blocks}, batch_rows=batch_rows, seed=seed)
        return cls(shards, sampler, length, batch_rows, token_budget, process, processes)

    def at(self, step: int) -> list[MicroBatch]:
        """The step's blocks, this process's share of them."""
        blocks = self.sampler.at(step).rows[self.process :: self.processes]
        count = max(1, self.token_budget // self.length)
        return [self._collate(blocks[begin : begin + count]) for begin in range(0, len(blocks), count)]

    @property
    def width(self) -> int:
        """Tokens of a block."""
        return self.length

    @property
    def step_tokens(self) -> int:
        """Tokens of a step's blocks in this process."""
        return -(-self.batch_rows // self.processes) * self.length

    def longest(self, sequences: int) -> MicroBatch:
        """The first block so many times: all are equally long."""
        return self._collate(np.zeros(sequences, dtype=np.int64))

    def with_budget(self, tokens: int) -> TextBatches:
        """See `Batches`."""
        return replace(self, token_budget=tokens)

    def present(self, step: int) -> Tensor:
        """Text is of no task: the one source is in every step."""
        del step
        return torch.ones(1, dtype=torch.bool)

    def _collate(self, blocks: NDArray[np.int64]) -> MicroBatch:
        tokens = torch.from_numpy(np.stack([self._block(int(block)) for block in blocks]).astype(np.int64))
        rows, length = len(blocks), self.length
        return MicroBatch(
            input_ids=tokens[:, :-1],
            # Contiguous: what is expanded cannot be pinned for the copy to a GPU.
            position_ids=torch.arange(length).expand(rows, length).contiguous(),
            segment_ids=None,
            logit_positions=torch.arange(rows * length),
            targets=tokens[:, 1:].reshape(-1),
            weights=torch.full((rows * length,), 1 / (length * self.batch_rows)),
            tokens=rows * length,
        )

    def _block(self, block: int) -> NDArray[np.uint32]:
        for shard in self.shards:
            blocks = (len(shard) - 1) // self.length
            if block < blocks:
                return shard[block * self.length : (block + 1) * self.length + 1]
            block -= blocks
        raise IndexError(block)


def _round_robin(sources: Sequence[Iterable[str]]) -> Iterator[str]:
    left = [iter(source) for source in sources]
    while left:
        for source in list(left):
            text = next(source, None)
            if text is None:
                left.remove(source)
            else:
                yield text


def _tokenize(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> NDArray[np.uint32]:
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # a special token spelled out in a text is plain text
    ends = [tokenizer.eos_token_id]
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    begins = list(prefix_ids(tokenizer)) or bos
    encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    return np.concatenate([np.array(begins + text.ids + ends, dtype=np.uint32) for text in encoded])


def _corpus_shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("corpus-*.bin"))


def _write(path: Path, parts: Sequence[NDArray[np.generic]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        for part in parts:
            part.astype(np.uint32).tofile(file)
    temporary.replace(path)
