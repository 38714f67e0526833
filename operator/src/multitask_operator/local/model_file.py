"""From a file to a model that can run here: read, checked, its addresses resolved."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from multitask_api.data_check import DataReport
from multitask_api.errors import InvalidResource, MultitaskError, Problem, UserError
from multitask_api.pdeathsig import die_with_parent
from multitask_api.resource import MultiTaskModel, parse
from multitask_api.stage_io.manifest import Resolved
from multitask_operator.local.errors import DataCheckFailed, NotLocal
from multitask_operator.local.workdir import Workdir

RESOLVE = "multitask_trainer.stages.resolve"
DATA_CHECK = "multitask_trainer.stages.data_check"

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
    "resources": "resources",
    "queue_name": "queueName",
    "pod_template": "podTemplate",
}


def load(file: Path) -> MultiTaskModel:
    """Read and check a resource file for a run on this machine; errors name every problem at once."""
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; give the path of a MultiTaskModel file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}; give a YAML file in UTF-8") from error
    try:
        model = parse(text)
    except InvalidResource as error:  # a problem of no field is one of the file
        raise InvalidResource([Problem(item.path or str(file), item.message) for item in error.problems]) from error
    problems = _cluster_only(model)
    if problems:
        raise NotLocal("\n".join(problems))
    return model


def data_root(file: Path) -> Path:
    """Relative data addresses are relative to the file."""
    return file.resolve().parent


def ignored_fields(model: MultiTaskModel) -> list[str]:
    """Fields that the file sets and only a cluster reads."""
    spec = model.spec
    found = [f"spec.{name}" for field, name in _CLUSTER_SPEC.items() if field in spec.model_fields_set]
    training = spec.training.model_fields_set
    found += [f"spec.training.{name}" for field, name in _CLUSTER_TRAINING.items() if field in training]
    if spec.training.gpus_per_node == 0:
        found.remove("spec.training.gpusPerNode")  # it means the CPU, here too
    return found


def device(model: MultiTaskModel, wanted: str) -> str:
    """``wanted`` if that is a device; for ``auto`` the CPU where the file asks for it, else what is there."""
    return "cpu" if wanted == "auto" and model.spec.training.gpus_per_node == 0 else wanted


def processes_allowed(model: MultiTaskModel) -> int | None:
    """``maxParallelJobs``, where the file sets it: here it bounds the processes."""
    training = model.spec.training
    return training.max_parallel_jobs if "max_parallel_jobs" in training.model_fields_set else None


def resolve(model: MultiTaskModel, root: Path, workdir: Workdir) -> Resolved:
    """Fingerprint the data and resolve the base's revision; LookFailed names all that cannot be reached.

    Hashes that ``workdir`` remembers are not computed again; a folder that is not there is not made.
    """
    cache = ["--cache", str(workdir.path / "resolve-cache.json")] if workdir.path.is_dir() else []
    done = _ask(RESOLVE, model, root, cache)
    try:
        found = Resolved.model_validate_json(done.stdout)
    except ValidationError as error:
        raise _failure(done, "the data and the base model could not be looked at") from error
    problems = list(found.problems)
    problems += [f"{uri}: {item.problem}" for uri, item in found.data.items() if item.problem]
    if problems:
        raise DataCheckFailed("\n".join(dict.fromkeys(problems)))
    return found


def check_data(model: MultiTaskModel, root: Path) -> DataReport:
    """The data of every task, read and checked row by row."""
    done = _ask(DATA_CHECK, model, root, ["--json"])
    try:
        return DataReport.model_validate_json(done.stdout)
    except ValidationError as error:
        raise _failure(done, "the data could not be looked at") from error


def _cluster_only(model: MultiTaskModel) -> list[str]:
    found = []
    for index, task in enumerate(model.spec.tasks):
        for value, name, instead in (
            (task.prompt_from, "promptFrom", "prompt"),
            (task.labels_from, "labelsFrom", "labels"),
        ):
            if value is not None:
                found.append(
                    f"spec.tasks[{index}].{name}: a ConfigMap exists only in a cluster; for a run on this machine"
                    f" write the text itself under {instead}"
                )
    if model.spec.suspend:
        found.append("spec.suspend: it is true, so nothing may start; set it to false")
    return found


def _ask(module: str, model: MultiTaskModel, root: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Ask a program about ``model``. Both go through pipes and it ends when this process does: nothing is left."""
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


def _failure(done: subprocess.CompletedProcess[str], what: str) -> MultitaskError:
    """The program's own words, if it ended as one that found bad input does; else its last line."""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 2 and said:
        return DataCheckFailed("\n".join(said))
    return MultitaskError(f"{what}: {said[-1] if said else f'status {done.returncode}, and no message'}")
