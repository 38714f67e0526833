"""Checkpoints in parts: every process writes what it holds, and any number of processes reads it.

By `torch.distributed.checkpoint`, in a folder ``sharded-<step>/``. Its ``progress.json`` is written last: a folder
without it is incomplete. The best weights so far are those of an earlier checkpoint, whose folder is kept.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
from torch import Tensor
from torch.distributed import ProcessGroup, barrier
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from multitask_trainer.storage.uris import remove_tree, storage_errors
from multitask_trainer.training.checkpoint import Progress

_PROGRESS = "progress.json"
_FOLDER = re.compile(r"sharded-(\d+)")

Tensors = Mapping[str, Mapping[str, Tensor]]
"""Kind, such as ``weights`` or the name of an optimizer's state → name of the parameter → tensor, whole or a part."""


@dataclass(frozen=True)
class ShardedStore:
    """Checkpoints below ``address``, a folder or an fsspec address that all processes reach."""

    address: str

    def save(self, progress: Progress, tensors: Tensors, group: ProcessGroup, *, is_main: bool) -> None:
        """Write the parts; all processes of ``group`` call it. The main one then removes what is not needed any more.

        Needed are this checkpoint and the one that ``progress`` names as the best.
        """
        folder = self._folder(progress.step)
        with storage_errors(self.address), _own_errors():
            if is_main:
                remove_tree(folder)  # of a process that was killed
            barrier(group)
            save_parts(dict(tensors), storage_writer=FsspecWriter(folder), process_group=group)
            if is_main:
                fs, path = fsspec.url_to_fs(f"{folder}/{_PROGRESS}")
                fs.pipe_file(path, progress.to_checkpoint().encode())
        if is_main:
            for step in self._steps("") - {progress.step, progress.best_step}:
                remove_tree(self._folder(step))

    def steps(self) -> set[int]:
        """The steps of all complete checkpoints."""
        return self._steps(f"/{_PROGRESS}")

    def newest(self, best_elsewhere: Collection[int]) -> Progress | None:
        """The progress of the last checkpoint whose best weights are here, or ``best_elsewhere``; None without one."""
        complete = self.steps()
        for step in sorted(complete, reverse=True):
            fs, path = fsspec.url_to_fs(f"{self._folder(step)}/{_PROGRESS}")
            with storage_errors(self.address):
                progress = Progress.from_checkpoint(fs.cat_file(path).decode())
            if progress.best_step is None or progress.best_step in complete | set(best_elsewhere):
                return progress
        return None

    def names(self, step: int) -> dict[str, list[str]]:
        """Kind → the names that the checkpoint of ``step`` has of it."""
        with storage_errors(self.address), _own_errors():
            metadata = FsspecReader(self._folder(step)).read_metadata()
        names: dict[str, list[str]] = {}
        for key in metadata.state_dict_metadata:
            kind, _, name = key.partition(".")
            names.setdefault(kind, []).append(name)
        return names

    def load(self, step: int, tensors: Tensors) -> None:
        """Put the checkpoint of ``step`` into ``tensors``, in place; no process waits for another."""
        with storage_errors(self.address), _own_errors(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # it says what was asked for
            load_parts(dict(tensors), storage_reader=FsspecReader(self._folder(step)), no_dist=True)

    def _folder(self, step: int) -> str:
        return f"{self.address}/sharded-{step}"

    def _steps(self, below: str) -> set[int]:
        fs, root = fsspec.url_to_fs(self.address)
        fs.invalidate_cache()
        with storage_errors(self.address):
            found = [_FOLDER.search(str(path)) for path in fs.glob(f"{root}/sharded-*{below}")]
        return {int(match[1]) for match in found if match}


@contextmanager
def _own_errors() -> Iterator[None]:
    """The library wraps an error, such as that of a full disk, in one that says of which process it is."""
    try:
        yield
    except CheckpointException as error:
        failures: Any = error.failures
        raise next(iter(failures.values()))[0] from error
