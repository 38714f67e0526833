"""``mtm validate``: the file and its data, every problem at once."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from multitask_api.errors import InvalidResource, Problem
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.local.errors import NotLocal
from multitask_operator.local.model_file import check_data, data_root, ignored_fields, load

OK, BAD_INPUT = 0, 2


def validate(file: Path, *, as_json: bool) -> int:
    """Check ``file``; the exit status says whether it can run."""
    try:
        model = load(file)
    except (InvalidResource, NotLocal) as error:
        if not as_json:
            raise
        print_json({"valid": False, "problems": [_problem(item) for item in _problems(error)], "tasks": []})
        return BAD_INPUT
    found = check_data(model, data_root(file))
    if as_json:
        print_json(
            {
                "valid": not found.problems,
                "model": model.metadata.name,
                "ignored": ignored_fields(model),
                **found.to_json(),
            }
        )
        return BAD_INPUT if found.problems else OK
    counts = []
    for task in found.tasks:
        rows = task.rows
        figures = (rows.train, rows.validation, rows.test, task.bad_rows)
        counts.append((task.name, *(f"{count:,}" for count in figures)))
    columns = ("task", "train", "validation", "test", "bad rows")
    table("", columns, counts, right=columns[1:])
    for task in found.tasks:
        for warning in task.warnings:
            print_line(f"warning: {task.name}: {warning}")
    for hint in found.hints:
        print_line(f"hint: {hint}")
    for problem in found.problems:
        print_line(f"{problem.path}: {problem.message}")
    if found.problems:
        count = len(found.problems)
        print_line(
            f"{file}: {count} problem{'s' if count > 1 else ''} in the data; repair what they name and validate again"
        )
        return BAD_INPUT
    print_line(f"{file}: model {model.metadata.name} is valid, and so is its data; next: mtm plan {quote(str(file))}")
    return OK


def _problems(error: InvalidResource | NotLocal) -> list[Problem]:
    if isinstance(error, InvalidResource):
        return list(error.problems)
    return [Problem(*line.split(": ", 1)) for line in str(error).splitlines()]


def _problem(problem: Problem) -> dict[str, str]:
    return {"path": problem.path, "message": problem.message}
