"""``mtm validate``: checks a file and its data, and lists all problems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import join

from multitask_api.errors import InvalidResource, Problem
from multitask_operator.commands import BAD_INPUT, OK
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.local.cluster_objects import cluster_problems
from multitask_operator.local.model_file import (
    UnsupportedLocally,
    check_data,
    check_sound_tasks,
    data_root,
    ignored_fields,
    load,
)


def validate(file: Path, *, as_json: bool, options: Sequence[str] = ()) -> int:
    """Check ``file`` and its data; the exit status tells whether it can run. ``options``: see `plan`."""
    try:
        model = load(file)
    except (InvalidResource, UnsupportedLocally) as error:
        sound = check_sound_tasks(file)
        problems = [*_problems_of(error), *(Problem(found.path, found.message) for found in sound.problems)]
        if not as_json:
            raise InvalidResource(problems) from error
        tasks = sound.to_json()["tasks"]
        print_json({"valid": False, "problems": [_to_json(problem) for problem in problems], "tasks": tasks})
        return BAD_INPUT
    report = check_data(model, data_root(file))
    refused = cluster_problems(model)
    if as_json:
        is_valid = not refused and not report.problems
        problems = [*refused, *(Problem(found.path, found.message) for found in report.problems)]
        print_json(
            {
                "valid": is_valid,
                "model": model.metadata.name,
                "ignored": ignored_fields(model),
                **report.to_json(),
                "problems": [_to_json(problem) for problem in problems],
            }
        )
        return OK if is_valid else BAD_INPUT
    table_rows = []
    for task in report.tasks:
        counts = (task.rows.train, task.rows.validation, task.rows.test, task.bad_rows)
        table_rows.append((task.name, *(f"{count:,}" for count in counts)))
    columns = ("task", "train", "validation", "test", "bad rows")
    table("", columns, table_rows, right=columns[1:])
    for task in report.tasks:
        for warning in task.warnings:
            print_line(f"warning: {task.name}: {warning}")
    for hint in report.hints:
        print_line(f"hint: {hint}")
    for rejected in refused:
        print_line(f"{rejected.path}: {rejected.message}")
    if refused:
        print_line(f"{file}: a cluster refuses this; correct it and validate again")
    for problem in report.problems:
        print_line(f"{problem.path}: {problem.message}")
    if report.problems:
        count = len(report.problems)
        text = "1 problem in data or base model; correct it" if count == 1 else f"{count} problems; correct them"
        print_line(f"{file}: {text} and validate again")
        return BAD_INPUT
    if refused:
        return BAD_INPUT
    next_command = join(["mtm", "plan", str(file), *options])
    print_line(f"{file}: model {model.metadata.name} and its data are valid; next: {next_command}")
    return OK


def _problems_of(error: InvalidResource | UnsupportedLocally) -> list[Problem]:
    if isinstance(error, InvalidResource):
        return list(error.problems)
    return [Problem(*line.split(": ", 1)) for line in str(error).splitlines()]


def _to_json(problem: Problem) -> dict[str, str]:
    return {"path": problem.path, "message": problem.message}
