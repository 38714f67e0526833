"""Rows as token ids, made once for all stages and processes of a model: see ``row_file``.

A file is named after all that its ids follow from: the rows, the tokenizer, and how prompt and answer are encoded. The
files lie beside the work folders of the model's stages, in a folder for each result of ``prepare``; `mtm gc` removes
those of a result that is not used any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
from numpy.typing import NDArray

from multitask_api.errors import MultitaskError
from multitask_api.stages import artifact_filename
from multitask_trainer.data.rows import PreparedSplit, Row
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.storage.artifacts import locked
from multitask_trainer.storage.uris import download_file, upload_file
from multitask_trainer.training.batching.dataset import ROWS_AT_ONCE, EncodedDataset, TaskEncoder
from multitask_trainer.training.batching.row_file import read_row_file, write_row_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ENCODING = 1
"""Raised when the same rows, tokenizer and settings give other ids."""


def prepared_split(stage: StageContext, task: str, split: str) -> PreparedSplit:
    """The rows of a task that ``stage`` has as an input; ``split`` is train, validation or test."""
    name = f"prepare/{task}"
    manifest = stage.input_manifest(name)
    source = artifact_filename((manifest.stage, manifest.digest))
    return PreparedSplit(stage.input(name) / f"{split}.parquet", source)


@dataclass(frozen=True)
class RowCache:
    """The encoded rows of one tokenizer."""

    folder: Path
    tokenizer_digest: str
    mirror: str | None = None
    """An address that keeps a copy of each file, where the folder ends with the pod."""
    report: Callable[[int, int], None] = lambda step, total: None
    """Called with the rows that are encoded so far, and all."""

    @classmethod
    def of(cls, stage: StageContext, tokenizer: PreTrainedTokenizerFast) -> RowCache:
        """That of the model whose stage this is."""
        return cls(
            stage.rows_folder,
            _digest(tokenizer.backend_tokenizer.to_str()),
            mirror=stage.rows_mirror,
            report=lambda step, total: stage.reporter.report("tokenising", step=step, total=total),
        )

    def encode(
        self, encoder: TaskEncoder, split: PreparedSplit, numbers: NDArray[np.int64] | None = None
    ) -> EncodedDataset:
        """The rows of ``split``, or those of these ``numbers``, as ids, memory-mapped.

        Of several processes one makes the file, and the others of its machine wait for it. Raises as
        `TaskEncoder.encode`.
        """
        path = self.folder / split.source / self._name(encoder, split, numbers)
        found = read_row_file(path)
        if found is not None:
            return found
        with locked(path):
            self._remove_unfinished(path)
            found = read_row_file(path)
            if found is None and self._download(path):
                found = read_row_file(path)
            if found is None:
                write_row_file(path, encoder.encode_parts(self._parts(split, numbers)))
                self._upload(path)
                found = read_row_file(path)
        if found is None:
            raise OSError(f"{path} cannot be read back as it was written; does the disk fail?")
        return found

    def _parts(self, split: PreparedSplit, numbers: NDArray[np.int64] | None) -> Iterator[list[Row]]:
        total = len(split) if numbers is None else len(numbers)
        done = 0
        for rows in split.parts(ROWS_AT_ONCE) if numbers is None else [split.take(numbers)]:
            self.report(done, total)
            yield rows
            done += len(rows)

    def _name(self, encoder: TaskEncoder, split: PreparedSplit, numbers: NDArray[np.int64] | None) -> str:
        follows_from = {
            "encoding": _ENCODING,
            "tokenizers": tokenizers.__version__,
            "tokenizer": self.tokenizer_digest,
            "settings": encoder.settings,
            "rows": split.digest,
            "numbers": None if numbers is None else _digest(numbers.astype("<i8").tobytes()),
        }
        return f"{_digest(json.dumps(follows_from, sort_keys=True))}.bin"

    def _download(self, path: Path) -> bool:
        """Whether there was a copy at the mirror, and is one here."""
        return self.mirror is not None and download_file(f"{self.mirror}/{path.relative_to(self.folder)}", path)

    def _upload(self, path: Path) -> None:
        if self.mirror is None:
            return
        try:
            upload_file(path, f"{self.mirror}/{path.relative_to(self.folder)}")
        except MultitaskError as error:  # another stage then encodes the rows again
            sys.stderr.write(f"encoded rows are not kept for other stages: {error}\n")

    @staticmethod
    def _remove_unfinished(path: Path) -> None:
        """What processes of this machine left that were killed while they wrote.

        Not what one writes now: where the file system has no locks, the caller holds none.
        """
        for unfinished in path.parent.glob(f".{path.name}.{platform.node()}.*"):
            process = unfinished.name.rsplit(".", 2)[1]
            if process == str(os.getpid()) or not Path("/proc", process).exists():
                unfinished.unlink(missing_ok=True)


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:32]
