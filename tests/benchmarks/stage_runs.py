"""What benchmarks share that run single stage programs, without a resource file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from multitask_api.stage_io.manifest import StageOrder
from multitask_api.stage_io.parameters import StageParameters
from multitask_trainer.storage.files import write_atomically

TESTS = Path(__file__).parents[1]


def run_stage(
    folder: Path,
    stage: str,
    parameters: StageParameters,
    inputs: dict[str, Path],
    *,
    threads: int = 1,
    program: Sequence[str] = (),
) -> Path:
    """Run a stage program on a CPU unless it has run before; its artifact.

    ``program`` is a file below ``tests`` with arguments, in place of the stage's own program. Its output goes to
    ``folder/logs``, and the largest resident memory of its process, in bytes, to `peak_memory`.
    """
    output = folder / "artifacts" / stage
    kind = stage.partition("/")[0]
    name = stage.replace("/", "_")
    order = StageOrder(
        model="benchmark",
        stage=stage,
        kind=kind,
        digest="0" * 12,
        version=1,
        parameters=parameters.to_json(),
        read_outputs={},
        inputs={name: str(path) for name, path in inputs.items()},
        output=str(output),
        work=str(folder / "work" / stage),
        device="cpu",
        threads=threads,
        data_root="/",
    )
    path = folder / "orders" / f"{name}.json"
    write_atomically(path, order.model_dump_json(by_alias=True))
    if (output / "manifest.json").exists():
        return output
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        own = [str(TESTS / program[0]), *program[1:]] if program else ["-m", f"multitask_trainer.stages.{kind}"]
        command = [sys.executable, *own, "--order", str(path)]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"PYTHONPATH": _python_path()})
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{stage} ended with {process.returncode}; see {log}")
    write_atomically(_memory_file(folder, stage), str(usage.ru_maxrss * 1024))
    return output


def _python_path() -> str:
    return os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


def peak_memory(folder: Path, stage: str) -> int:
    """Bytes that the process of a stage had resident at most."""
    return int(_memory_file(folder, stage).read_text("utf-8"))


def _memory_file(folder: Path, stage: str) -> Path:
    return folder / "memory" / stage.replace("/", "_")
