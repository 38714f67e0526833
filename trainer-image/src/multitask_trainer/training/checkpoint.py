"""Checkpoints of a run: one file, replaced atomically: a run killed at any point has the last complete one.

The best weights so far are in a file of their own that the checkpoint names; both are kept until the next checkpoint
names another. Where the folder ends with the pod, an address keeps a copy of each, written in the same order.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import fsspec
import torch
from torch import Tensor

from multitask_api.stage_io.results import CurvePoint
from multitask_api.types import Record
from multitask_trainer.errors import ArtifactError
from multitask_trainer.storage.files import temporary_sibling
from multitask_trainer.storage.uris import download_file, storage_errors, upload_file

Weights = Mapping[str, Tensor]
_CHECKPOINT = "checkpoint.pt"
_STORED_NAMES = {"decay_start": "tail_begin", "evals_without_improvement": "stale"}
"""Field → its name in a checkpoint. A run that an older release began must resume, so stored names stay."""


class Progress(Record):
    """Everything a run remembers besides weights and optimizer. Batches need no state: they follow from the step."""

    step: int = 0
    decay_start: int | None = None
    ended_by_limit: bool = False
    best_step: int | None = None
    best_value: float = 0.0
    best_loss: float = 0.0
    evals_without_improvement: int = 0
    """Validations since the best one; compared with ``patience``."""
    curve: tuple[CurvePoint, ...] = ()
    loss_sum: float = 0.0
    """Training loss summed over the steps since the last validation."""
    loss_steps: int = 0
    first_loss: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    """Spent in steps, over all restarts; validation not included."""

    @property
    def score(self) -> float | None:
        """What the selection gave the best validation; None before the first one."""
        return self.best_value if self.best_step is not None else None

    @property
    def tokens_per_second(self) -> float | None:
        """Over all steps so far; None before the first one."""
        return self.tokens / self.seconds if self.seconds else None

    def to_checkpoint(self) -> str:
        """JSON under the names that checkpoints have had from the first release on."""
        fields = json.loads(self.model_dump_json())
        return json.dumps({_STORED_NAMES.get(name, name): value for name, value in fields.items()})

    @classmethod
    def from_checkpoint(cls, text: str) -> Progress:
        """What `to_checkpoint` gave, of this release or an older one. Raises `ValueError` for anything else."""
        names = {stored: name for name, stored in _STORED_NAMES.items()}
        return cls.model_validate(
            {names.get(stored, stored): value for stored, value in dict(json.loads(text)).items()}
        )


@dataclass(frozen=True)
class CheckpointStore:
    """``checkpoint.pt`` and ``best-<step>.pt`` in one folder, and at ``mirror``, an fsspec address, if there is one."""

    folder: Path
    mirror: str | None = None

    def save(self, progress: Progress, weights: Weights, optimizer: Mapping[str, Any]) -> None:
        """Replace the checkpoint, then remove best weights that it does not name."""
        content = {"progress": progress.to_checkpoint(), "weights": dict(weights), "optimizer": dict(optimizer)}
        self._write(_CHECKPOINT, content)
        kept = _best(progress.best_step)
        for path in self.folder.glob(_best("*")):
            if path.name != kept:
                path.unlink(missing_ok=True)
        if self.mirror is not None:
            fs, root = fsspec.url_to_fs(self.mirror)
            fs.invalidate_cache()
            with storage_errors(self.mirror), suppress(FileNotFoundError):  # another pod may remove the same
                for name in fs.glob(f"{root}/{_best('*')}"):
                    if name.rsplit("/", 1)[-1] != kept:
                        fs.rm_file(name)

    def load(self, best_elsewhere: Collection[int] = ()) -> tuple[Progress, Weights, dict[str, Any]] | None:
        """Progress, weights and optimizer of the last checkpoint; None without one that can be read.

        The best weights of the steps ``best_elsewhere`` need not be here.
        """
        path = self._local(_CHECKPOINT)
        if path is None:
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            progress = Progress.from_checkpoint(content["progress"])
            best = progress.best_step
            if best is not None and best not in best_elsewhere and self._local(_best(best)) is None:
                raise ValueError(f"it names {_best(best)}, which is gone")
        except (RuntimeError, EOFError, UnpicklingError, KeyError, TypeError, ValueError) as error:
            sys.stderr.write(f"{path} cannot be read ({error}); training begins anew\n")
            return None
        return progress, content["weights"], content["optimizer"]

    def save_best(self, step: int, weights: Weights) -> None:
        """Keep the weights of ``step``; they are used once a checkpoint names that step."""
        self._write(_best(step), dict(weights))

    def best_steps(self) -> set[int]:
        """The steps whose weights `save_best` has kept, in the folder or at the mirror."""
        names = [path.name for path in self.folder.glob(_best("*"))]
        if self.mirror is not None:
            fs, root = fsspec.url_to_fs(self.mirror)
            fs.invalidate_cache()
            with storage_errors(self.mirror):
                names += [name.rsplit("/", 1)[-1] for name in fs.glob(f"{root}/{_best('*')}")]
        return {int(name.removeprefix("best-").removesuffix(".pt")) for name in names}

    def load_best(self, step: int) -> Weights:
        """What `save_best` kept. Raises `ArtifactError` if the file is gone."""
        path = self._local(_best(step))
        if path is None:
            raise ArtifactError(f"{self.folder / _best(step)} is gone; does another process train here?")
        weights: Weights = torch.load(path, map_location="cpu", weights_only=True)
        return weights

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_sibling(path)
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if self.mirror is not None:
            upload_file(path, f"{self.mirror}/{name}")

    def _local(self, name: str) -> Path | None:
        """The file in the folder, copied from the mirror if it is only there; None if it is in neither."""
        path = self.folder / name
        if path.exists():
            return path
        if self.mirror is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        return path if download_file(f"{self.mirror}/{name}", path) else None


def _best(step: int | str | None) -> str:
    return f"best-{step}.pt"
