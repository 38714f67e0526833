"""One measurement of one task in a step, and what follows from all that it has had."""

from __future__ import annotations

from multitask_api.routes import Measurements, TaskRollout
from multitask_api.stage_io.results import Agreement
from multitask_operator.formatting import counted
from multitask_operator.rollout.counts import Counts
from multitask_operator.rollout.draft import changed
from multitask_operator.rollout.metrics import Outcome, figures, is_less_accurate, measure
from multitask_operator.rollout.plan import AnalysisSettings


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
