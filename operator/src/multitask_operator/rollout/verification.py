"""Before the first step: servers that are ready, golden requests answered as evaluated, approval."""

from __future__ import annotations

from dataclasses import replace

from multitask_api.routes import ChangedAnswers, RolloutState, TaskRollout
from multitask_api.serving_io.names import APPROVAL_ANNOTATION
from multitask_api.serving_io.revision import RevisionTask
from multitask_api.serving_io.verify import OtherDevice, RevisionReport
from multitask_operator.formatting import listed
from multitask_operator.rollout.candidate import approval_id, exclusion, rejection, same_contract
from multitask_operator.rollout.decision import GoldenJob
from multitask_operator.rollout.draft import Draft, await_approval, changed, finish, reject_revision
from multitask_operator.rollout.inputs import LiveRevision, RolloutInput, format_time
from multitask_operator.rollout.plan import retry_suffix
from multitask_operator.rollout.share import DOWNTIME
from multitask_operator.rollout.table import OUT

WAITING_FOR_SERVERS = "WaitingForServers"
"""The reason of a rollout whose revision has no server that is ready."""
RECHECK_SECONDS = 10.0
"""Seconds until the next look at what no watch shows."""


def verify(
    draft: Draft, inp: RolloutInput, state: RolloutState, revision: LiveRevision, *, rollback: bool, is_paused: bool
) -> Draft:
    """The draft with the first step begun, or with what that waits for. A rollback waits for ready servers only."""
    if not revision.ready:
        waiting = draft.waiting(WAITING_FOR_SERVERS, _no_servers(revision), RECHECK_SECONDS)
        return replace(waiting, is_short=bool(revision.replicas))
    if not state.tasks:
        if rollback:
            state = changed(state, tasks=[_row(inp, state, task, "", rollback=True) for task in revision.record.tasks])
        else:
            silent = silent_message(inp)
            if not _is_announced(inp, revision) or silent:
                return draft.waiting(
                    "WaitingForGateways", silent or "the gateways learn of the revision", RECHECK_SECONDS
                )
            key = golden_key("verify", state)
            report = inp.reports.get(key)
            if report is None or report.revision != revision.name:
                return _ask(draft, inp, state, revision, key)
            draft, state = _verified(draft, inp, state, revision, report)
    left = [row.name for row in state.tasks if row.phase in OUT and inp.home(row.name, revision.name) is not None]
    if left and state.gives_way == DOWNTIME:
        message = (
            f"revision {revision.name} cannot leave {listed(left)} to another one, which has no room: {_why(state)}"
        )
        draft = reject_revision(draft, inp, revision.name, "VerificationFailed", message)
        return finish(draft, inp, state, "Failed", message)
    if not [row for row in state.tasks if row.phase not in OUT]:
        message = f"revision {revision.name} answers no task as it was evaluated: {_why(state)}"
        draft = reject_revision(draft, inp, revision.name, "VerificationFailed", message)
        return finish(draft, inp, state, "Failed", message)
    if is_paused:
        message = f"paused by a person before revision {revision.name} has traffic; next: mtm rollout resume"
        return draft.with_state(state, phase="Paused", message=message).waiting("RolloutPaused", message)
    wanted = missing_approval(inp, revision, rollback=rollback)
    message = f"revision {revision.name} is verified and waits for approval: {ask_approval(wanted)}"
    held = hold_back(draft, inp, state, wanted, message, rollback=rollback)
    if held is not None:
        return held
    started = changed(
        state,
        phase="Progressing",
        step=0,
        step_started=format_time(inp.now),
        measured=None,
        message="",
        weight=0,
        approved=needed_approval(inp, revision, rollback=rollback),
    )
    return replace(draft, state=started)


def needed_approval(inp: RolloutInput, revision: LiveRevision, *, rollback: bool) -> str:
    """The id that a person has to approve, or has approved; empty: none."""
    return approval_id(revision.record, inp.serving) if inp.serving.approval == "Manual" and not rollback else ""


def missing_approval(inp: RolloutInput, revision: LiveRevision, *, rollback: bool, approved: str = "") -> str | None:
    """The id that a person has to approve; None: nothing, or it is approved, as ``approved`` was before."""
    wanted = needed_approval(inp, revision, rollback=rollback)
    return None if wanted in ("", approved, inp.annotations.get(APPROVAL_ANNOTATION)) else wanted


def hold_back(
    draft: Draft, inp: RolloutInput, state: RolloutState, approval: str | None, message: str, *, rollback: bool
) -> Draft | None:
    """The draft of a rollout that waits for a person's ``approval``, with that message, or for a place after that.

    None: it may go on. What waits for a person leaves its place to other models, and needs one again.
    """
    if approval is not None:
        return await_approval(draft, state, approval, message)
    if not inp.has_to_queue or state.phase != "Paused" or rollback:
        return None
    message = f"revision {state.revision} goes on after the rollouts of other models"
    return draft.with_state(state, message=message).waiting_for_others(f"{message}: {inp.queued}")


def ask_approval(wanted: str | None) -> str:
    """How it is approved."""
    return f"set the annotation {APPROVAL_ANNOTATION} to {wanted}"


def golden_key(name: str, state: RolloutState) -> str:
    """The key of a Job: one that was tried again is another Job."""
    return name + retry_suffix(state)


def silent_message(inp: RolloutInput) -> str:
    """Which gateways are in the way; empty: none."""
    silent = inp.silent_gateways()
    if silent is None:
        return "the pods of the gateways could not be listed"
    return f"{listed(silent, 3)} {'has' if len(silent) == 1 else 'have'} not confirmed the table" if silent else ""


def _no_servers(revision: LiveRevision) -> str:
    if not revision.has_pods or revision.replicas:
        return f"revision {revision.name}: {revision.ready} of {max(1, revision.replicas)} servers are ready"
    return f"revision {revision.name} has no servers, because spec.serving.replicas is 0"


def _is_announced(inp: RolloutInput, revision: LiveRevision) -> bool:
    """Whether the table names the revision for every task that it is verified for."""
    named = {name for name, entry in inp.routed.items() if revision.name in {item.revision for item in entry.backends}}
    rejected = inp.status.rejected
    return all(task.name in named or rejection(rejected, revision.name, task.name) for task in revision.record.tasks)


def _ask(draft: Draft, inp: RolloutInput, state: RolloutState, revision: LiveRevision, key: str) -> Draft:
    tasks = tuple(task.name for task in revision.record.tasks)
    draft = replace(draft, golden=GoldenJob(revision.name, key, tasks, state.stable))
    failure = inp.job_failures.get(key)
    if failure is not None:
        return draft.waiting("VerificationNotPossible", f"revision {revision.name} could not be verified: {failure}")
    return draft.waiting("Verifying", f"golden requests are sent to revision {revision.name}")


def _row(
    inp: RolloutInput, state: RolloutState, task: RevisionTask, failure: str, *, rollback: bool = False
) -> TaskRollout:
    """How a task begins."""
    excluded = exclusion(inp, inp.status.rejected, state.revision, task.name, rollback=rollback)
    if inp.is_settled(state.revision, task.name):
        return TaskRollout(name=task.name, phase="Successful", step_passed=True)
    if excluded is not None and not failure:
        return TaskRollout(name=task.name, phase="Excluded", message=excluded.message)
    if failure:
        return TaskRollout(name=task.name, phase="Failed", message=failure)
    home = inp.home(task.name, state.revision)
    if home is None:  # nobody waits for the first revision of a model: there is nothing to go back to
        return TaskRollout(name=task.name, phase="Running", passed_on="golden", step_passed=not state.stable)
    if not same_contract(inp, home, task):
        message = "its type, fields or labels changed: callers of both contracts cannot be answered; rename it instead"
        return TaskRollout(name=task.name, phase="Running", passed_on="cut-over", message=message)
    return TaskRollout(name=task.name, phase="Running")


def _verified(
    draft: Draft, inp: RolloutInput, state: RolloutState, revision: LiveRevision, report: RevisionReport
) -> tuple[Draft, RolloutState]:
    rows = [
        changed(_row(inp, state, task, _failure(inp, report, task.name)), changed_answers=_changed(report, task.name))
        for task in revision.record.tasks
    ]
    rows = [row if row.message else changed(row, message=_note(report, row.name)) for row in rows]
    for row in (row for row in rows if row.phase == "Failed"):
        draft = reject_revision(draft, inp, revision.name, "VerificationFailed", row.message, (row.name,))
        draft = draft.event("TaskExcluded", f"{row.name} keeps its old revision: {row.message}", warning=True)
    state = changed(state, tasks=rows)
    names = [row.name for row in rows if row.phase not in OUT]
    if names:
        draft = draft.event("RevisionVerified", f"revision {revision.name} answers {listed(names)} as evaluated")
    return draft, state


def _failure(inp: RolloutInput, report: RevisionReport, task: str) -> str:
    """Why the task may not have the revision; empty: it may."""
    agreement = report.result.tasks.get(task)
    if agreement is None or not agreement.compared:
        return "none of its golden requests was compared"
    if agreement.different:
        rows = f"{agreement.different} of {agreement.compared} golden requests"
        return f"{rows} answered otherwise than when evaluated{_lost_score(report, task)}"
    most, flips, home = inp.serving.rollout.max_regressions, report.flips.get(task), inp.home(task, report.revision)
    if most is None or home is None:
        return ""
    if flips is None or not flips.compared:
        return _not_compared(report, task, home.revision)
    share = flips.right_to_wrong / flips.compared
    if share <= most:
        return ""
    return (
        f"{flips.right_to_wrong} of {flips.compared} rows were right and are wrong ({100 * share:.1f} %);"
        f" maxRegressions allows {100 * most:g} %"
    )


def _lost_score(report: RevisionReport, task: str) -> str:
    devices = report.other_device
    if devices is None or task not in devices.lost:
        return ""
    return f", {_devices(devices)}, and its score is {devices.lost[task]:.3f} lower"


def _devices(devices: OtherDevice) -> str:
    return f"computed on {listed(devices.served_on)}, measured on {listed(devices.measured_on)}"


def _note(report: RevisionReport, task: str) -> str:
    """What is no fault and should be known."""
    devices = report.other_device
    if devices is None or task not in devices.tasks or task in devices.lost:
        return ""
    compared = report.result.tasks[task].compared
    return (
        f"{devices.tasks[task]} of {compared} golden requests answered otherwise than when evaluated,"
        f" {_devices(devices)}; its score is as good"
    )


def _not_compared(report: RevisionReport, task: str, previous: str) -> str:
    """A limit that cannot be checked is not kept."""
    why = report.not_compared.get(task, "")
    if not why:
        why = "no row was compared" if report.previous else "it is not known what that revision answers"
    return (
        f"its answers were not compared with those of revision {previous}, which maxRegressions asks for: {why};"
        " next: mtm rollout retry, without maxRegressions if they cannot be compared"
    )


def _changed(report: RevisionReport, task: str) -> ChangedAnswers | None:
    flips = report.flips.get(task)
    if flips is None:
        return None
    counts = {name: getattr(flips, name) for name in ChangedAnswers.model_fields}
    return ChangedAnswers.model_validate(counts, by_name=True)


def _why(state: RolloutState) -> str:
    return "; ".join(f"{row.name}: {row.message}" for row in state.tasks[:3] if row.message)
