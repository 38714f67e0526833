"""One of several processes that need the same encoded rows; prints how many rows it encoded and what it has then."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from multitask_api.bundle import PromptFormat
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_trainer.data.rows import PreparedSplit
from multitask_trainer.training.batching import dataset
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.training.batching.row_cache import RowCache


def main(folder: Path) -> None:
    """Begins when it is told to, so that all begin at once."""
    counts: list[int] = []
    encode_prompts = dataset.encode_prompts

    def counted(requests, tokenizer):
        counts.append(len(requests))
        return encode_prompts(requests, tokenizer)

    dataset.encode_prompts = counted
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    task = TaskDefinition.model_validate_json((folder / "task.json").read_text())
    encoder = TaskEncoder.of(task, tokenizer, max_length=48, chat_template=False, prompt_format=PromptFormat())
    split = PreparedSplit(folder / "prepared" / "train.parquet")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not (folder / "begin").exists():
        time.sleep(0.001)
    rows = RowCache(folder / "rows", "a tokenizer").encode(encoder, split)
    sys.stdout.write(f"{sum(counts)} {len(rows)} {rows.ids.sum()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
