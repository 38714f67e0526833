"""Reads a resource file, and checks and resolves it for a run on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from multitask_api.data_check import DataProblem, DataReport
from multitask_api.errors import InvalidResource, MultitaskError, Problem, UserError
from multitask_api.pdeathsig import die_with_parent
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec, parse, yaml_loader
from multitask_api.resource.sound_tasks import sound_tasks
from multitask_api.resource.sources import BaseModelSource
from multitask_api.resource.spec import Metadata
from multitask_api.stage_io.manifest import Resolved
from multitask_operator.local.workdir import Workdir

RESOLVE = "multitask_trainer.stages.resolve"
DATA_CHECK = "multitask_trainer.jobs.data_check"

_CLUSTER_SPEC = {
    "storage": "storage",
    "credentials": "credentials",
    "service_account_name": "serviceAccountName",
    "image_pull_secrets": "imagePullSecrets",
    "serving": "serving",
}
_CLUSTER_TRAINING = {
    "nodes": "nodes",
    "gpus_per_node": "gpusPerNode",
    "sharding": "sharding",
    "resources": "resources",
    "queue_name": "queueName",
    "pod_template": "podTemplate",
    "pod_templates": "podTemplates",
}


class UnsupportedLocally(UserError):
    """The resource uses something that only a cluster has."""


class DataCheckFailed(UserError):
    """Data or base model cannot be read, or are not what the resource says."""


def load(file: Path) -> MultiTaskModel:
    """Read and check a resource file for a run on this machine. Raises UserError; its message names every problem."""
    text = read_text(file, "MultiTaskModel")
    try:
        model = parse(text)
    except InvalidResource as error:
        if kind_of(text) == "Study":
            raise UserError(
                f"{file} is a Study, not a MultiTaskModel; `mtm study` runs it, `--plan` plans it"
            ) from error
        # A problem without a field concerns the file.
        raise InvalidResource([Problem(item.path or str(file), item.message) for item in error.problems]) from error
    problems = _local_problems(model)
    if problems:
        raise UnsupportedLocally("\n".join(problems))
    return model


def read_text(file: Path, kind: str) -> str:
    """The text of a file that is to have a resource of ``kind``. Raises UserError if it cannot be read."""
    try:
        return file.read_text("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; give the path of a {kind} file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}; give a YAML file in UTF-8") from error


def kind_of(text: str) -> str | None:
    """The kind of the resource in a text: what it says, else by its fields; None if neither tells."""
    try:
        document = yaml_loader.load(text)
    except InvalidResource:
        return None
    by_fields = "MultiTaskModel" if "spec" in document else "Study" if "model" in document else None
    return str(document["kind"]) if "kind" in document else by_fields


def data_root(file: Path) -> Path:
    """The folder that relative data URIs are relative to: that of the file."""
    return file.resolve().parent


def ignored_fields(model: MultiTaskModel) -> list[str]:
    """Fields that the file sets and only a cluster uses."""
    spec = model.spec
    fields = [f"spec.{name}" for field, name in _CLUSTER_SPEC.items() if field in spec.model_fields_set]
    training = spec.training.model_fields_set
    fields += [f"spec.training.{name}" for field, name in _CLUSTER_TRAINING.items() if field in training]
    if spec.training.gpus_per_node == 0:
        fields.remove("spec.training.gpusPerNode")  # it selects the CPU, on this machine too
    return fields


def device(model: MultiTaskModel, wanted: str) -> str:
    """The value of ``--device`` for the stages: ``auto`` becomes ``cpu`` if the resource asks for no GPU."""
    return "cpu" if wanted == "auto" and model.spec.training.gpus_per_node == 0 else wanted


def processes_allowed(model: MultiTaskModel) -> int | None:
    """The limit on concurrent stage processes: ``maxParallelJobs``, if the file sets it."""
    training = model.spec.training
    return training.max_parallel_jobs if "max_parallel_jobs" in training.model_fields_set else None


def resolve(model: MultiTaskModel, root: Path, workdir: Workdir, *, rows: bool = False) -> Resolved:
    """Fingerprint the data and resolve the base model's revision.

    Hashes cached in ``workdir`` are not computed again; a folder that does not exist is not made. ``rows``: find out
    how long the rows are, too. Raises DataCheckFailed, which names everything that cannot be read.
    """
    cache = ["--cache", str(workdir.path / "resolve-cache.json")] if workdir.path.is_dir() else []
    completed = _run_trainer_program(RESOLVE, model, root, [*cache, *(["--rows"] if rows else [])])
    try:
        resolved = Resolved.model_validate_json(completed.stdout)
    except ValidationError as error:
        raise _error_from(completed, "checking the data and the base model failed") from error
    if resolved.problems:
        raise DataCheckFailed("\n".join(resolved.problems))
    return resolved


def check_data(model: MultiTaskModel, root: Path) -> DataReport:
    """Read the data of every task and check every row."""
    completed = _run_trainer_program(DATA_CHECK, model, root, ["--json"])
    try:
        return DataReport.model_validate_json(completed.stdout)
    except ValidationError as error:
        raise _error_from(completed, "checking the data failed") from error


def check_sound_tasks(file: Path) -> DataReport:
    """Check the data of the tasks that are valid by themselves, in a file that is not valid as a whole."""
    try:
        document = yaml_loader.load(file.read_text("utf-8"))
        tasks = sound_tasks(document)
        if not tasks:
            return DataReport()
        spec = MultiTaskModelSpec(base_model=BaseModelSource(uri="builtin://micro"), tasks=tuple(tasks.values()))
        report = check_data(MultiTaskModel(metadata=Metadata(name="x"), spec=spec), data_root(file))
    except MultitaskError:
        return DataReport()  # the problems of the file are the news
    indices = list(tasks)
    names = {f"task-{index}": str(document["spec"]["tasks"][index].get("name")) for index in indices}
    problems = []
    for problem in report.problems:
        match = re.match(r"spec\.tasks\[(\d+)\](.*)", problem.path)
        if match:
            path = f"spec.tasks[{indices[int(match[1])]}]{match[2]}"
            problems.append(DataProblem(path=path, message=problem.message))
    rows = (task.model_copy(update={"name": names[task.name]}) for task in report.tasks)
    return DataReport(problems=tuple(problems), tasks=tuple(rows))


def _local_problems(model: MultiTaskModel) -> list[str]:
    """What of the resource cannot be used on this machine, a line each."""
    problems = []
    for index, task in enumerate(model.spec.tasks):
        for value, name, inline in (
            (task.prompt_from, "promptFrom", "prompt"),
            (task.labels_from, "labelsFrom", "labels"),
        ):
            if value is not None:
                problems.append(
                    f"spec.tasks[{index}].{name}: a ConfigMap exists only in a cluster; for a run on this machine"
                    f" write the text under {inline}"
                )
    if model.spec.suspend:
        problems.append("spec.suspend: it is true, so nothing may start; set it to false")
    return problems


def _run_trainer_program(
    module: str, model: MultiTaskModel, root: Path, arguments: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run a program with ``model`` on its standard input. It ends when this process does."""
    argv = [sys.executable, "-m", module, "--model", "/dev/stdin", "--data-root", str(root), *arguments]
    text = model.model_dump_json(by_alias=True, exclude_none=True)
    return subprocess.run(
        die_with_parent(argv),
        input=text,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},  # what it prints is read as UTF-8, whatever the locale
        check=False,
    )


def _error_from(completed: subprocess.CompletedProcess[str], failure: str) -> MultitaskError:
    """The program's error output if it found bad input (status 2); else ``failure`` and the last line of it."""
    lines = [line for line in completed.stderr.splitlines() if line.strip()]
    if completed.returncode == 2 and lines:
        return DataCheckFailed("\n".join(lines))
    return MultitaskError(f"{failure}: {lines[-1] if lines else f'exit status {completed.returncode}, no message'}")
