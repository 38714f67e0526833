"""One step of a rollout: measure, exclude what has failed, go on or wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from multitask_api.routes import RolloutState, TaskRollout
from multitask_operator.formatting import duration, listed
from multitask_operator.rollout.analysis import is_compared, is_measured, measure_step, step_key
from multitask_operator.rollout.candidate import has_traffic
from multitask_operator.rollout.draft import OPEN, Draft, changed, finish, open_rows, reject_revision
from multitask_operator.rollout.inputs import STABLE_SECONDS, LiveRevision, RolloutInput, format_time, parse_time
from multitask_operator.rollout.orders import PAUSE, PROMOTE
from multitask_operator.rollout.plan import Step, held_step, steps_of, window_name
from multitask_operator.rollout.share import DOWNTIME, share_of
from multitask_operator.rollout.table import OUT, whole_weight
from multitask_operator.rollout.verification import (
    RECHECK_SECONDS,
    ask_approval,
    hold_back,
    missing_approval,
    needed_approval,
    silent_message,
)


def progress(
    draft: Draft,
    inp: RolloutInput,
    state: RolloutState,
    revision: LiveRevision,
    *,
    action: str,
    resume: str,
    rollback: bool,
) -> Draft:
    """The draft after one look at the step under way. ``action``: the standing order for this rollout; empty: none.

    ``resume``: an order to resume that was not carried out yet; empty: none. One that ends the pause of a step is
    carried out when the step is over: until then something else may be in the way, a server or a gateway.
    """
    wanted = missing_approval(inp, revision, rollback=rollback, approved=state.approved)
    approved = needed_approval(inp, revision, rollback=rollback)
    is_new = approved not in ("", state.approved)
    is_held = wanted is not None or (is_new and state.phase == "Paused" and inp.has_to_queue)
    if is_held and state.gives_way != DOWNTIME:  # then nobody else would answer
        return _held(draft, inp, state, revision, wanted)
    if is_new:
        state = changed(_measured_anew(inp, state), approved=approved)
    hurry = rollback or action == PROMOTE or not state.stable or state.gives_way == DOWNTIME
    steps = steps_of(inp.serving.rollout)
    index = len(steps) - 1 if hurry else min(state.step, len(steps) - 1)
    step = steps[index]
    if index != state.step:
        state = changed(state, step=index, step_started=format_time(inp.now), measured=None)
    if any(_moves_now(inp, state, revision, row.name) for row in open_rows(state)):
        state = changed(
            state, step_started=format_time(inp.now), measured=None
        )  # it has as much time as the others had
    resumed = bool(resume)
    if resumed:
        state = _reopened(state, inp.now)
        if not step.pauses or hurry:
            state = changed(state, order=resume)
    if not hurry:
        draft, state = measure_step(draft, inp, state, step)
        draft, state = _exclude(draft, inp, state)
    state = changed(state, weight=min(step.weight, share_of(inp, revision, state)))
    draft = replace(draft, state=state, step=step)
    if not [row for row in state.tasks if row.phase not in OUT]:
        return _none_left(draft, inp, state)
    if action == PAUSE:
        return _paused(
            draft, state, f"paused by a person in step {index + 1} of {len(steps)}; next: mtm rollout resume"
        )
    stuck = [row for row in open_rows(state) if row.phase == "Inconclusive"]
    if stuck and not hurry:
        names = listed([row.name for row in stuck])
        return _paused(draft, state, f"the traffic does not tell whether {names} got worse: {stuck[0].message}")
    if step.pauses and step.pause is None and not resumed and not hurry:
        return _paused(draft, state, f"pause at step {index + 1} of {len(steps)}; next: mtm rollout resume")
    state = changed(state, phase="Progressing")
    draft = replace(draft, state=state)
    is_last = index + 1 == len(steps)
    waits = _waits(inp, state, step, revision, hurry=hurry, resumed=resumed, is_last=is_last)
    if waits is not None:
        message, seconds = waits
        message = f"step {index + 1} of {len(steps)} ({step.weight} %): {message}"
        waiting = draft.with_state(state, message=message).waiting("RollingOut", message, seconds)
        return replace(waiting, is_short=share_of(inp, revision, state) < step.weight)
    if resumed:
        state = changed(state, order=resume)
    return _passed(draft, inp, state, revision, steps, index)


def _none_left(draft: Draft, inp: RolloutInput, state: RolloutState) -> Draft:
    message = f"no task is left for revision {state.revision}: all of them keep their old revision"
    draft = reject_revision(draft, inp, state.revision, "AnalysisFailed", message)
    return finish(draft, inp, state, "Failed", message)


def _held(draft: Draft, inp: RolloutInput, state: RolloutState, revision: LiveRevision, wanted: str | None) -> Draft:
    """The settings are no longer those that were approved: no weight rises by them. What is surely worse goes back.

    ``wanted``: the id that a person has to approve; None: it is approved, and waits for a place.
    """
    windows = (entry.window for row in open_rows(state) if (entry := inp.routed.get(row.name)) is not None)
    step = held_step(state.weight, next(windows, None))
    draft, state = measure_step(draft, inp, state, step)
    draft, state = _exclude(draft, inp, state)
    draft = replace(draft, state=state, step=step)
    if not [row for row in state.tasks if row.phase not in OUT]:
        return _none_left(draft, inp, state)
    message = (
        f"the settings of the rollout of revision {revision.name} are others than those that were approved; it stays at"
        f" {state.weight} %: {ask_approval(wanted)}"
    )
    held = hold_back(draft, inp, state, wanted, message, rollback=False)
    return replace(held or draft, requeue_after=RECHECK_SECONDS)


def _measured_anew(inp: RolloutInput, state: RolloutState) -> RolloutState:
    """What was measured by other settings does not count."""
    rows = [
        changed(row, step_passed=row.step_passed and not is_compared(inp, state, row.name), measurements=None)
        if row.phase in OPEN
        else row
        for row in state.tasks
    ]
    return changed(state, tasks=rows, step_started=format_time(inp.now), measured=None)


def _reopened(state: RolloutState, now: float) -> RolloutState:
    """Somebody wants the tasks that the traffic said too little about to be measured again."""
    if not any(row.phase == "Inconclusive" for row in state.tasks):
        return state
    rows = [
        changed(row, phase="Running", measurements=None) if row.phase == "Inconclusive" else row for row in state.tasks
    ]
    return changed(state, tasks=rows, step_started=format_time(now), measured=None)


def _moves_now(inp: RolloutInput, state: RolloutState, revision: LiveRevision, name: str) -> bool:
    """Whether the next table gives all of a task to the revision that cannot be compared."""
    return not is_measured(inp, state, name) and whole_weight(inp, state, revision, name) > 0


def _exclude(draft: Draft, inp: RolloutInput, state: RolloutState) -> tuple[Draft, RolloutState]:
    known = {item.task for item in draft.rejected if item.revision == state.revision}
    for row in state.tasks:
        if row.phase == "Failed" and row.name not in known:
            draft = reject_revision(draft, inp, state.revision, "AnalysisFailed", row.message, (row.name,))
            is_new = inp.home(row.name, state.revision) is None
            where = "is not routed any more" if is_new else "goes back to its old revision"
            message = f"{row.name} {where}: {row.message}"
            draft = draft.event("TaskRolledBack", message, warning=True)
    return draft, state


def _paused(draft: Draft, state: RolloutState, message: str) -> Draft:
    if state.phase != "Paused":
        draft = draft.event("RolloutPaused", message)
    return draft.with_state(state, phase="Paused", message=message).waiting("RolloutPaused", message, RECHECK_SECONDS)


def _waits(
    inp: RolloutInput,
    state: RolloutState,
    step: Step,
    revision: LiveRevision,
    *,
    hurry: bool,
    resumed: bool,
    is_last: bool,
) -> tuple[str, float] | None:
    """What the step waits for, and seconds until the next look; None: nothing."""
    if share_of(inp, revision, state) < step.weight:
        return f"{revision.ready} of {revision.replicas} servers are ready", RECHECK_SECONDS
    silent = silent_message(inp)
    if silent:
        return silent, RECHECK_SECONDS
    if not _is_written(inp, state, step):
        return "the gateways learn of the weights", RECHECK_SECONDS
    if hurry:
        return None
    if revision.restarted is not None and inp.now < revision.restarted + STABLE_SECONDS:
        # Requests that it took down were answered by other servers: no count tells of them.
        message = (
            f"a server of revision {revision.name} has ended by itself; it has to run for {duration(STABLE_SECONDS)}"
        )
        return message, RECHECK_SECONDS
    passed = parse_time(state.step_started or "")
    if step.pauses and step.pause is not None and not resumed and inp.now < passed + step.pause:
        return f"pause of {duration(step.pause)}", passed + step.pause - inp.now
    if step.analysis is not None:
        # What moves as a whole may have to wait for more servers than the step needs.
        missing = [
            row for row in open_rows(state) if not row.step_passed and (is_last or is_measured(inp, state, row.name))
        ]
        if missing:
            failure = inp.job_failures.get(step_key(state))
            why_no_golden = f"; the golden requests in their place could not be sent: {failure}" if failure else ""
            return _evidence(missing) + why_no_golden, min(step.analysis.interval, RECHECK_SECONDS)
    return None


def _is_written(inp: RolloutInput, state: RolloutState, step: Step) -> bool:
    """Whether the table in the cluster has the step's window already, so that the gateways' word is about it, and no
    task any more that has failed."""
    if any(row.phase in OUT and has_traffic(inp, state.revision, row.name) for row in state.tasks):
        return False
    window = window_name(state, step)
    entries = [inp.routed.get(row.name) for row in open_rows(state)]
    return all(entry is not None and entry.window == window for entry in entries)


def _evidence(missing: Sequence[TaskRollout]) -> str:
    errors = [row.name for row in missing if row.phase == "Error"]
    if errors:
        return f"no gateway says what it counted for {listed(errors)}"
    unclear = [row for row in missing if row.measurements is not None and row.measurements.inconclusive]
    if unclear:
        return f"{unclear[0].name} needs more requests: {unclear[0].message}"
    return f"too few requests yet for {listed([row.name for row in missing])}"


def _passed(
    draft: Draft, inp: RolloutInput, state: RolloutState, revision: LiveRevision, steps: Sequence[Step], index: int
) -> Draft:
    if index + 1 < len(steps):
        following = steps[index + 1]
        # What moved as a whole has more requests in no later step: it is measured once.
        rows = [
            changed(row, step_passed=row.step_passed and not is_compared(inp, state, row.name), measurements=None)
            if row.phase == "Running"
            else row
            for row in state.tasks
        ]
        message = f"step {index + 2} of {len(steps)} ({following.weight} %) begins"
        after = changed(
            state,
            step=index + 1,
            step_started=format_time(inp.now),
            measured=None,
            weight=min(following.weight, share_of(inp, revision, state)),
            tasks=rows,
            message=message,
        )
        draft = draft.event("RolloutStep", f"revision {revision.name}: {message}")
        return replace(draft, state=after, step=following).waiting("RollingOut", message, 0.0)
    out = [row.name for row in state.tasks if row.phase in OUT]
    message = f"revision {revision.name} has the traffic"
    if out:
        message += f", except that of {listed(out)}"
    return finish(draft, inp, state, "Successful", message)
