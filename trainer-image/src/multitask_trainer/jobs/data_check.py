"""Program ``data_check``: the row checks of all tasks, before anything is planned; ``mtm validate`` shows its report.

``python -m multitask_trainer.jobs.data_check --model FILE.json --data-root DIR [--json]`` ends with 0, or with 2 when
something is wrong. It writes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from multitask_api.data_check import DataProblem, DataReport, TaskRows
from multitask_api.errors import Problem, RetryableError, UserError
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_api.resource.sources import BaseModelSource
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.stage_io.results import SPLITS, SplitRows
from multitask_api.uris import is_builtin, is_folder
from multitask_trainer.base_model.builtin import MAX_POSITIONS
from multitask_trainer.base_model.folder_check import base_problem, read_config
from multitask_trainer.base_model.limits import max_length_problem
from multitask_trainer.data.inspection import MAX_SHOWN, TaskInspection, inspect_task
from multitask_trainer.data.listing import files_below
from multitask_trainer.data.reading import DataLocations, read_texts


def check_data(spec: MultiTaskModelSpec, locations: DataLocations) -> DataReport:
    """Check the data of every task, the corpus and a base on disk."""
    problems: list[DataProblem] = list(_base_problems(spec, locations))
    tasks = []
    for index, task in enumerate(spec.tasks):
        where = f"spec.tasks[{index}]"
        if task.prompt is None or task.labels_from is not None:
            problems.append(DataProblem(path=where, message="promptFrom and labelsFrom can be read only in a cluster"))
            continue
        try:
            inspection = inspect_task(TaskDefinition.of(task), task.data, locations)
        except Exception as error:  # noqa: BLE001 -- one task's files must not hide what is wrong with the others
            problems.append(DataProblem(path=f"{where}.data", message=_unchecked(error)))
            continue
        problems += _task_problems(inspection, where, task.data.max_bad_rows)
        rows = SplitRows(**{split: len(inspection.rows[split]) for split in SPLITS})
        bad = len(inspection.droppable)
        tasks.append(TaskRows(name=task.name, rows=rows, bad_rows=bad, warnings=tuple(inspection.warnings)))
    return DataReport(problems=tuple(problems), hints=spec.hints(), tasks=tuple(tasks))


def _unchecked(error: Exception) -> str:
    if isinstance(error, RetryableError):
        return f"{error}; the rows of this task were not checked"
    traceback.print_exception(error)
    return f"the rows of this task were not checked: {type(error).__name__}: {error}; this is a fault of the program"


def _task_problems(inspection: TaskInspection, where: str, allowed: int) -> Iterator[DataProblem]:
    for split, messages in inspection.problems.items():
        for message in messages:
            yield DataProblem(path=f"{where}.data.{split}", message=message)
    bad = len(inspection.droppable)
    if bad > max(allowed, MAX_SHOWN):
        yield DataProblem(path=f"{where}.data", message=f"{bad} bad rows in all; data.maxBadRows allows {allowed}")


def _base_problems(spec: MultiTaskModelSpec, locations: DataLocations) -> Iterator[DataProblem]:
    problem = base_problem(spec.base_model, locations) or _store_problem(spec.base_model, locations)
    if problem is not None:
        yield DataProblem(path=problem.path, message=problem.message)
    else:
        too_long = max_length_problem(spec.training.max_length, _max_positions(spec.base_model, locations))
        if too_long is not None:
            yield DataProblem(path="spec.training.maxLength", message=too_long)
    for index, source in enumerate(spec.pretraining.corpus if spec.pretraining else ()):
        try:
            next(iter(read_texts(source.uri, locations)), None)
        except (UserError, RetryableError) as error:
            yield DataProblem(path=f"spec.pretraining.corpus[{index}].uri", message=str(error))


def _store_problem(base: BaseModelSource, locations: DataLocations) -> Problem | None:
    """Why the folder of a base in an object store cannot be listed."""
    if not is_folder(base.uri) or locations.local_path(base.uri) is not None:
        return None
    try:
        files_below(base.uri, locations, only=base.gguf_file)
    except (UserError, RetryableError) as error:
        return Problem("spec.baseModel.uri", str(error))
    return None


def _max_positions(base: BaseModelSource, locations: DataLocations) -> int | None:
    """The ``max_position_embeddings`` of a base that has no problem, where that is known before it is loaded."""
    if is_builtin(base.uri):
        return MAX_POSITIONS
    folder = locations.local_path(base.uri)
    if folder is None or base.gguf_file is not None:
        return None
    config = read_config(folder)
    # A multimodal model has its decoder's settings in a part of their own.
    positions = [part.get("max_position_embeddings") for part in (config, config.get("text_config") or {})]
    return next((value for value in positions if isinstance(value, int)), None)


def main(argv: Sequence[str] | None = None) -> int:
    """Check the data and print the report; the exit status is 2 if there is a problem."""
    parser = argparse.ArgumentParser(prog="data_check")
    parser.add_argument("--model", type=Path, required=True, help="the MultiTaskModel as JSON")
    parser.add_argument("--data-root", default=".", help="the folder that relative addresses start from")
    parser.add_argument("--json", action="store_true", help="print a multitask_api.data_check.DataReport")
    arguments = parser.parse_args(argv)
    model = MultiTaskModel.model_validate_json(arguments.model.read_text("utf-8"))
    report = check_data(model.spec, DataLocations.of(arguments.data_root, os.environ))
    sys.stdout.write(report.model_dump_json(by_alias=True) + "\n" if arguments.json else format_report(report))
    return 2 if report.problems else 0


def format_report(report: DataReport) -> str:
    """For people: rows a task, what is odd, what is wrong."""
    lines = []
    for task in report.tasks:
        rows = task.rows
        lines.append(f"{task.name}: {rows.train} train, {rows.validation} validation, {rows.test} test rows")
        lines += [f"  warning: {warning}" for warning in task.warnings]
    lines += [f"hint: {hint}" for hint in report.hints]
    lines += [f"{problem.path}: {problem.message}" for problem in report.problems]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
