"""The frame of every stage program: read the order, do the work, publish the artifact with its manifest last."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from multitask_api.errors import RetryableError, UserError
from multitask_api.manifest import Manifest, StageFailure, StageOrder
from multitask_api.types import Model
from multitask_trainer.errors import StageError
from multitask_trainer.reporter import FileReporter, Reporter
from multitask_trainer.storage import describe, fetch, publish, read_manifest, write_atomically

EXIT_USER_ERROR = 2
EXIT_RETRYABLE = 75  # EX_TEMPFAIL of sysexits.h

P = TypeVar("P", bound=Model)


@dataclass(frozen=True)
class Outcome:
    """What a stage found (``result``) and the digest of each of its named outputs."""

    result: Model
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Stage:
    """One run of one stage program."""

    order: StageOrder
    reporter: Reporter
    _fetched: dict[str, Path] = field(default_factory=dict)

    def parameters(self, kind: type[P]) -> P:
        """The order's parameters as the record ``kind``. Raises `StageError` if they are not one."""
        try:
            return kind.model_validate(self.order.parameters)
        except ValidationError as error:
            raise StageError(f"the order's parameters are no {kind.__name__} of this version: {error}") from error

    @property
    def work(self) -> Path:
        """A folder that survives a restart of the stage: checkpoints go here."""
        return Path(self.order.work)

    @property
    def folder(self) -> Path:
        """The artifact's files are written here; ``run`` publishes them."""
        return self.work / "artifact"

    def input(self, stage: str) -> Path:
        """The local folder of the artifact of ``stage``, one of the order's inputs."""
        if stage not in self._fetched:
            self._fetched[stage] = fetch(self.order.inputs[stage], self.work / "inputs")
        return self._fetched[stage]

    def manifest_of(self, stage: str) -> Manifest:
        """The manifest of an input."""
        return Manifest.model_validate_json((self.input(stage) / "manifest.json").read_text("utf-8"))

    def inputs_of(self, prefix: str) -> list[str]:
        """The names of the inputs that begin with ``prefix``, sorted."""
        return sorted(name for name in self.order.inputs if name.startswith(prefix))


def run(work: Callable[[Stage], Outcome], argv: Sequence[str] | None = None) -> int:
    """Run a stage program to its manifest; the exit status says whether trying again can help."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--order", type=Path, required=True, help="the StageOrder file")
    order = StageOrder.model_validate_json(parser.parse_args(argv).order.read_text("utf-8"))
    stage = Stage(order, FileReporter(order.stage, Path(order.progress) if order.progress else None))
    stage.work.mkdir(parents=True, exist_ok=True)
    (stage.work / "failure.json").unlink(missing_ok=True)
    try:
        if read_manifest(order.output) is None:
            _make(work, stage)
    except UserError as error:
        return _fail(stage, "UserError", str(error), EXIT_USER_ERROR)
    except (RetryableError, ConnectionError, TimeoutError) as error:
        return _fail(stage, "Retryable", str(error), EXIT_RETRYABLE)
    except Exception as error:  # noqa: BLE001 - the frame is the last place that can say which stage failed, and why
        traceback.print_exc()
        return _fail(stage, "Fault", f"{type(error).__name__}: {error}", 1)
    shutil.rmtree(stage.work, ignore_errors=True)  # checkpoints are of no use once the manifest stands
    return 0


def _make(work: Callable[[Stage], Outcome], stage: Stage) -> None:
    shutil.rmtree(stage.folder, ignore_errors=True)  # a killed run's half-written artifact
    stage.folder.mkdir()
    begun = time.monotonic()
    outcome = work(stage)
    manifest = _manifest(stage.order, outcome, stage.folder, time.monotonic() - begun)
    publish(stage.folder, stage.order.output, manifest)


def _manifest(order: StageOrder, outcome: Outcome, folder: Path, seconds: float) -> Manifest:
    libraries = ("torch", "transformers", "peft", "tokenizers", "numpy")
    return Manifest(
        stage=order.stage,
        kind=order.kind,
        digest=order.digest,
        version=order.version,
        read_outputs=order.read_outputs,
        outputs=dict(outcome.outputs),
        files=describe(folder),
        result=outcome.result.to_json(),
        seconds=round(seconds, 3),
        environment={name: version(name) for name in libraries}
        | {
            "python": platform.python_version(),
            "host": platform.node(),
            "cpus": str(os.cpu_count()),
            "threads": str(order.threads),
            "device": order.device,
        },
    )


def _fail(stage: Stage, kind: str, message: str, status: int) -> int:
    failure = StageFailure.model_validate({"stage": stage.order.stage, "kind": kind, "message": message})
    write_atomically(stage.work / "failure.json", failure.model_dump_json(by_alias=True))
    sys.stderr.write(f"{stage.order.stage}: {message}\n")
    return status
