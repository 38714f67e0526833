"""What a stage program works with: its order, the artifacts it reads, its folders, and where it reports progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from multitask_api.stage_io.manifest import ROWS_FOLDER, Manifest, StageOrder
from multitask_api.types import Record
from multitask_trainer.errors import StageError
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.runtime.progress import ProgressReporter
from multitask_trainer.storage.artifacts import fetch_artifact, read_manifest
from multitask_trainer.storage.files import unique_name

P = TypeVar("P", bound=Record)

ACCELERATOR = "accelerator"
"""Key of a manifest's ``environment``: what computed, see `device_name`."""


@dataclass(frozen=True)
class StageOutcome:
    """The ``result`` of a stage, and the digest of each of its named outputs."""

    result: Record
    outputs: Mapping[str, str]
    seconds_before: float = 0.0
    """Of the stage's share of work that several stages did together, before what gives this outcome."""


@dataclass(frozen=True)
class StageContext:
    """One run of one stage program."""

    order: StageOrder
    reporter: ProgressReporter
    distributed: DistributedContext = field(default_factory=DistributedContext)
    _attempt: str = field(default_factory=unique_name)
    _fetched: dict[str, Path] = field(default_factory=dict)
    _whole: StageOrder | None = None
    """The order of the stage, where this is a part of it."""

    def parameters(self, kind: type[P]) -> P:
        """The order's parameters as the record ``kind``. Raises `StageError` if they are not one."""
        try:
            return kind.model_validate(self.order.parameters)
        except ValidationError as error:
            raise StageError(f"the parameters are not valid {kind.__name__} of this version: {error}") from error

    @property
    def device(self) -> str:
        """The device to compute on; ``auto`` in the order is ``cuda`` where there is one, else ``cpu``."""
        if self.order.device != "auto":
            return self.order.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def accelerator(self) -> str:
        """What computes: ``cpu``, or the name of the GPU."""
        from multitask_serving.engine.model.loading import device_name

        return device_name(self.device)

    @property
    def work_folder(self) -> Path:
        """A folder that survives a restart of the stage: checkpoints go here."""
        return Path(self.order.work)

    @property
    def scratch_folder(self) -> Path:
        """A folder of this attempt alone: a pod that the cluster has lost sight of may still run the same order."""
        return self.work_folder / "attempts" / self._attempt

    @property
    def artifact_folder(self) -> Path:
        """The stage writes the artifact's files here; the runner publishes them."""
        return self.scratch_folder / "artifact"

    @property
    def rows_folder(self) -> Path:
        """A folder of all stages of the model, beside their work folders, for rows as token ids."""
        return Path(self._stage_order.work).parent / ROWS_FOLDER

    @property
    def rows_mirror(self) -> str | None:
        """The address for copies of its files, where the folder ends with the pod; None where it stays."""
        checkpoint = self._stage_order.checkpoint
        return checkpoint and f"{checkpoint.rpartition('/')[0]}/{ROWS_FOLDER}"

    @property
    def _stage_order(self) -> StageOrder:
        return self._whole or self.order

    def part(self, name: str) -> StageContext:
        """A part of the stage, whose work folder and checkpoints lie below those of the whole; it shares the rows."""
        checkpoint = self.order.checkpoint and f"{self.order.checkpoint.rstrip('/')}/{name}"
        own = self.order.model_copy(update={"work": str(self.work_folder / name), "checkpoint": checkpoint})
        return replace(self, order=own, _whole=self._stage_order)

    def input(self, stage: str) -> Path:
        """The local folder of the artifact of ``stage``, one of the order's inputs, checked against its manifest."""
        uri = self.order.inputs[stage]
        # Of stages that share them, the one whose folder has the copy may have ended and removed it.
        if uri not in self._fetched or not self._fetched[uri].exists():
            self._fetched[uri] = fetch_artifact(uri, self.work_folder / "inputs")
        return self._fetched[uri]

    def sharing_inputs(self, other: StageContext) -> StageContext:
        """The same run, which does not fetch what ``other``, in the same process, has fetched, and the other way round.

        A base is large, and a pod's disk has no room for one copy of it for each stage.
        """
        return replace(self, _fetched=other._fetched)

    def input_manifest(self, stage: str) -> Manifest:
        """The manifest of an input."""
        manifest = read_manifest(self.order.inputs[stage])
        if manifest is None:
            raise StageError(f"{self.order.inputs[stage]} has no manifest: {stage} has to run first")
        return manifest

    def input_names(self, prefix: str) -> list[str]:
        """The names of the inputs that begin with ``prefix``, sorted."""
        return sorted(name for name in self.order.inputs if name.startswith(prefix))

    def run_once(self, name: str, make: Callable[[], None]) -> None:
        """Let one process make something in ``work_folder`` for all processes that share the folder."""
        # A checkpoint address means that the folder ends with the pod: then each node has a folder of its own.
        self.distributed.run_once(name, make, on_each_node=self.order.checkpoint is not None)
