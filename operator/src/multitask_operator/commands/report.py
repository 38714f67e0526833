"""``mtm report DIR``: the table of results, and report.html from report.json."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from multitask_api.errors import UserError
from multitask_api.report import Report
from multitask_operator.commands.console import (
    diagnoses,
    print_json,
    print_line,
    qualification,
    run_command,
    starts,
    tuning,
    warnings,
)
from multitask_operator.local.workdir import Workdir, write_atomically


def report(folder: Path, *, as_json: bool) -> int:
    """Show the last report of the work folder, and write its page."""
    from multitask_operator.report.html import render

    workdir = Workdir.existing(folder)
    partial_page = workdir.partial_report[1]
    has_partial = partial_page.exists()
    try:
        data = Report.model_validate_json(workdir.report.read_bytes())
    except FileNotFoundError as error:
        hint = f"; partial report: {partial_page}" if has_partial else ""
        raise UserError(f"{folder} has no report.json yet; {run_command(folder)} writes it at its end{hint}") from error
    except ValidationError as error:
        raise UserError(
            f"{workdir.report} was written by another version of mtm; run the model again to rewrite it"
        ) from error
    write_atomically(workdir.report_page, render(data))
    if as_json:
        print_json(data.model_dump(mode="json", by_alias=True))
        return 0
    qualification(data)
    tuning(data)
    starts(data)
    diagnoses(data)
    warnings(data)
    print_line(f"report: {workdir.report_page}")
    if has_partial:
        print_line(f"a later run has not finished; its partial report: {partial_page}")
    return 0


def write_report(workdir: Workdir, report: Report, *, complete: bool) -> None:
    """Write report.json and its page; for a run that is not ``complete``, report.partial.json and its page."""
    from multitask_operator.report.html import render

    data, page = (workdir.report, workdir.report_page) if complete else workdir.partial_report
    write_atomically(data, report.model_dump_json(by_alias=True, indent=1))
    write_atomically(page, render(report))
    if complete:
        for path in workdir.partial_report:
            path.unlink(missing_ok=True)
