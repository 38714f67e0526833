"""The measurements of the tasks in a step, and what follows from all that a task has had."""

from __future__ import annotations

from dataclasses import replace

from multitask_api.routes import Measurements, RolloutState, TaskRollout
from multitask_api.stage_io.results import Agreement
from multitask_operator.formatting import counted
from multitask_operator.rollout.candidate import has_traffic, same_contract
from multitask_operator.rollout.counts import Counts, counts_of
from multitask_operator.rollout.decision import GoldenJob
from multitask_operator.rollout.draft import OPEN, Draft, changed, open_rows
from multitask_operator.rollout.inputs import RolloutInput, format_time, parse_time
from multitask_operator.rollout.metrics import Outcome, figures, is_less_accurate, measure
from multitask_operator.rollout.plan import AnalysisSettings, Step, analysis_settings, strict, window_name
from multitask_operator.rollout.verification import golden_key


def not_answered(row: TaskRollout, settings: AnalysisSettings) -> TaskRollout:
    """No gateway has said what it counted: nothing is known, which is neither a pass nor a failure."""
    before = row.measurements or Measurements()
    after = before.model_copy(update={"consecutive_errors": before.consecutive_errors + 1})
    if after.consecutive_errors > settings.consecutive_error_limit:
        message = f"no gateway answered {counted(after.consecutive_errors, 'time')} in a row"
        return changed(row, phase="Error", measurements=after, step_passed=False, message=message)
    return changed(row, measurements=after)


def measured(
    row: TaskRollout, new: Counts, old: Counts | None, settings: AnalysisSettings, *, is_late: bool, guard_only: bool
) -> TaskRollout:
    """The task after a look at the counts of its window.

    ``old``: see `measure`. ``is_late``: the step has lasted as long as it may wait for requests. ``guard_only``: the
    step needs no pass, so only a failure counts.
    """
    enough = new.requests >= max(1, settings.min_requests)
    result = measure(new, old, row.previous, settings)
    row = _answered(row)
    if not enough and not is_less_accurate(new, old, settings):
        has_faults = result.outcome is not Outcome.SUCCESSFUL
        if not (is_late and has_faults):
            return row
    previous = figures(old, row.previous, settings)
    before = row.measurements or Measurements()
    message = result.message
    if result.outcome is Outcome.FAILED:
        after = before.model_copy(update={"failed": before.failed + 1})
        if after.failed > settings.failure_limit:
            return changed(row, phase="Failed", step_passed=False, measurements=after, message=message)
        return changed(row, step_passed=False, measurements=after, message=message)
    if guard_only:
        return changed(row, previous=previous)
    if result.outcome is Outcome.INCONCLUSIVE:
        after = before.model_copy(update={"inconclusive": before.inconclusive + 1})
        phase = "Inconclusive" if after.inconclusive > settings.inconclusive_limit else row.phase
        return changed(row, phase=phase, step_passed=False, measurements=after, message=message, previous=previous)
    after = before.model_copy(update={"successful": before.successful + 1})
    passed = after.successful >= settings.count
    return changed(
        row,
        phase="Running",
        step_passed=passed,
        passed_on="traffic" if passed else row.passed_on,
        measurements=after,
        message=message,
        previous=previous,
    )


def judged_by_golden(row: TaskRollout, agreement: Agreement | None) -> TaskRollout:
    """The task after golden requests were sent in its step, because too few callers had a request."""
    if agreement is None or not agreement.compared:
        return changed(row, message="there are no golden requests for it: only traffic can decide")
    rows = counted(agreement.compared, "golden request")
    if agreement.different:
        message = f"{agreement.different} of {rows} answered otherwise than when the revision was evaluated"
        return changed(row, phase="Failed", step_passed=False, message=message)
    return changed(row, phase="Running", step_passed=True, passed_on="golden", message=f"{rows} answered as evaluated")


def _answered(row: TaskRollout) -> TaskRollout:
    before = row.measurements
    if before is None or not before.consecutive_errors:
        return row
    after = before.model_copy(update={"consecutive_errors": 0})
    return changed(row, phase="Running" if row.phase == "Error" else row.phase, measurements=after)


def measure_step(draft: Draft, inp: RolloutInput, state: RolloutState, step: Step) -> tuple[Draft, RolloutState]:
    """At most one measurement of every task in an interval. ``measured`` changes only if a task does."""
    settings = step.analysis or analysis_settings(inp.serving.rollout)
    settings = strict(settings) if step.is_held else settings
    started = parse_time(state.step_started or "")
    is_late = inp.now >= started + settings.max_step_seconds
    due = started + settings.initial_delay
    if state.measured is not None:
        due = max(due, parse_time(state.measured) + settings.interval)
    is_answered = any(item is not None for item in (inp.gateways or {}).values())
    key = step_key(state)
    report = inp.reports.get(key)
    rows: list[TaskRollout] = []
    for row in state.tasks:
        after = row
        if row.phase in OPEN and is_measured(inp, state, row.name) and inp.now >= due:
            if is_answered:
                new, old, guard_only = _counts(inp, state, step, row.name, state.revision), None, row.step_passed
                if is_compared(inp, state, row.name):
                    old, guard_only = _counts(inp, state, step, row.name, _home(inp, state, row.name)), False
                guard_only = guard_only or step.analysis is None
                after = measured(row, new, old, settings, is_late=is_late, guard_only=guard_only)
                too_few = after.measurements == row.measurements and not after.step_passed
                if step.analysis is not None and is_late and too_few and report is not None:
                    after = judged_by_golden(after, report.result.tasks.get(row.name))
            elif inp.gateways is None or inp.gateways:
                after = not_answered(row, settings)
        rows.append(after)
    if tuple(rows) != state.tasks:
        state = changed(state, tasks=rows, measured=format_time(inp.now))
    silent = [row.name for row in open_rows(state) if not row.step_passed and is_measured(inp, state, row.name)]
    asked = tuple(name for name in silent if not _has_measurements(state, name))
    if step.analysis is not None and is_late and asked and report is None:
        draft = replace(draft, golden=GoldenJob(state.revision, key, asked, state.stable))
    return draft, state


def step_key(state: RolloutState) -> str:
    """Of the Job of the step under way. The same step of an earlier rollout of the revision asked other tasks, at
    another time: what it reported is no evidence for this one."""
    return golden_key(f"step-{state.step} {state.step_started}", state)


def _counts(inp: RolloutInput, state: RolloutState, step: Step, task: str, revision: str) -> Counts:
    return counts_of(inp.counts, f"{inp.namespace}/{inp.model}/{task}", revision, window_name(state, step))


def _has_measurements(state: RolloutState, name: str) -> bool:
    row = next(row for row in state.tasks if row.name == name)
    counts = row.measurements
    return counts is not None and bool(counts.successful + counts.failed + counts.inconclusive)


def _home(inp: RolloutInput, state: RolloutState, name: str) -> str:
    home = inp.home(name, state.revision)
    return home.revision if home is not None else ""


def is_compared(inp: RolloutInput, state: RolloutState, name: str) -> bool:
    """Whether there is an old revision that answers the same contract."""
    home, revision = inp.home(name, state.revision), inp.revision(state.revision)
    task = revision.task(name) if revision is not None else None
    return home is not None and task is not None and same_contract(inp, home, task)


def is_measured(inp: RolloutInput, state: RolloutState, name: str) -> bool:
    """Whether its requests can be judged: by those of the old revision, or once all of them go to the new one."""
    return is_compared(inp, state, name) or has_traffic(inp, state.revision, name)
