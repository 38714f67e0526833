"""Carries plans out: starts and stops stage processes, and tells the planner what it sees."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import Manifest, Resolved, StageFailure, StageOrder, StageProgress
from multitask_api.stages import ArtifactKey, build
from multitask_operator.local import processes
from multitask_operator.local.promotion import check_of, promoted_export, published
from multitask_operator.local.workdir import FAILURE, Workdir, write
from multitask_operator.planner import Capacity, Failed, Observed, Plan, Running, StartStage, is_final, plan
from multitask_operator.planner.orders import stage_order

#: Seconds a stage has to leave a checkpoint after SIGTERM.
GRACE = 20.0


class View(Protocol):
    """Is told what happens; shows it."""

    def started(self, stage: str, attempt: int) -> None:
        """A stage program was started."""

    def ended(self, stage: str, seconds: float, manifest: Manifest) -> None:
        """A stage left its result."""

    def failed(self, failed: Failed, *, final: bool) -> None:
        """A stage ended without a result."""

    def stopped(self, stage: str, reason: str) -> None:
        """A stage was stopped because nobody wants its result."""

    def progress(self, shown: Plan, progress: list[tuple[str, float, StageProgress | None]]) -> None:
        """Called several times a second with (stage, seconds so far, what it last said) of every stage at work."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended. ``ran``: stage → seconds of this run, and none of those that were there before."""

    plan: Plan
    ran: dict[str, float]
    interrupted: bool = False


@dataclass
class _Job:
    key: ArtifactKey
    process: processes.Process
    started: float
    attempt: int
    stopping: bool = False


@dataclass
class Executor:
    """One run of one model in one work folder, whose lock the caller holds."""

    workdir: Workdir
    model: MultiTaskModel
    resolved: Resolved
    data_root: Path
    capacity: Capacity
    view: View
    launcher: processes.Launcher
    serve: bool = True
    interrupted: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.time
    poll: float = 0.2
    device: str = "auto"
    _jobs: dict[ArtifactKey, _Job] = field(default_factory=dict)
    _failures: dict[ArtifactKey, Failed] = field(default_factory=dict)
    _ran: dict[str, float] = field(default_factory=dict)

    def run(self) -> RunResult:
        """Go on until nothing is left to do, something failed for good, or the user interrupts."""
        try:
            current = self._decide()
            again = self._again(current)
            while not current.finished:
                if self.interrupted():
                    for job in self._jobs.values():
                        self.view.stopped(job.key[0], "interrupted; it leaves a checkpoint")
                    return RunResult(current, self._ran, interrupted=True)
                time.sleep(self.poll)
                if self._reap() or self.clock() >= again:
                    current = self._decide()
                    again = self._again(current)
                self.view.progress(current, self._progress())
            return RunResult(current, self._ran)
        finally:
            processes.stop_all([job.process for job in self._jobs.values()], GRACE)

    def _decide(self) -> Plan:
        """Observe, plan, act."""
        observed = Observed(
            resolved=self.resolved,
            manifests=self.workdir.manifests(),
            capacity=self.capacity,
            running=tuple(Running(*job.key, job.started, job.stopping) for job in self._jobs.values()),
            failures=tuple(self._failures.values()),
            serve=self.serve,
        )
        decided = plan(self.model, observed, self.clock())
        for stop in decided.stops:
            job = self._jobs.get(stop.key)
            if job is not None:
                job.stopping = True
                processes.signal_group(job.process.pid, signal.SIGTERM)
                self.view.stopped(stop.stage, stop.reason)
        for start in decided.starts:
            self._start(start, decided)
        self._publish(decided)
        return decided

    def _again(self, decided: Plan) -> float:
        return float("inf") if decided.requeue_after is None else self.clock() + decided.requeue_after

    def _start(self, action: StartStage, decided: Plan) -> None:
        key = action.key
        before = self._failures.get(key)
        if key in self._jobs or (before is not None and before.attempts >= action.attempt):
            return
        order = self._order(action, decided)
        write(self.workdir.order(key), order.model_dump_json(by_alias=True, indent=1))
        self.workdir.progress(key).unlink(missing_ok=True)
        (self.workdir.work(key) / FAILURE).unlink(missing_ok=True)
        (self.workdir.artifact(key) / "manifest.json").unlink(missing_ok=True)  # not whole, or it would not start
        log = self.workdir.log(action.node.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        stamp = datetime.fromtimestamp(self.clock()).astimezone().isoformat(timespec="seconds")
        with log.open("a", encoding="utf-8") as file:
            file.write(f"=== {stamp} {key[0]} {key[1]} attempt {action.attempt}, {action.threads} threads\n")
        environment = processes.environment(self.workdir.path, action.threads)
        process = self.launcher.start(action.node.kind, self.workdir.order(key), log, environment)
        self._jobs[key] = _Job(key, process, self.clock(), action.attempt)
        self.view.started(action.node.name, action.attempt)

    def _order(self, action: StartStage, decided: Plan) -> StageOrder:
        return stage_order(
            self.model.metadata.name,
            decided.graph,
            action.node,
            lambda key: str(self.workdir.artifact(key)),
            work=str(self.workdir.work(action.key)),
            progress=str(self.workdir.progress(action.key)),
            threads=action.threads,
            device=self.device,
            data_root=str(self.data_root),
        )

    def _reap(self) -> bool:
        """Take note of processes that ended; whether there were any."""
        ended = [job for job in self._jobs.values() if job.process.poll() is not None]
        for job in ended:
            processes.signal_group(job.process.pid, signal.SIGKILL)  # what it started and left behind
            del self._jobs[job.key]
            self._note(job)
        return bool(ended)

    def _note(self, job: _Job) -> None:
        stage, seconds = job.key[0], self.clock() - job.started
        manifest = self.workdir.manifests().get(job.key)
        if manifest is not None:
            self._failures.pop(job.key, None)
            self._ran[stage] = self._ran.get(stage, 0.0) + seconds
            self.view.ended(stage, seconds, manifest)
        elif not job.stopping:
            log = self.workdir.log(stage)
            failure = self._failure(job, log)
            failed = Failed(failure, job.key[1], job.attempt, self.clock(), str(log))
            self._failures[job.key] = failed
            write(self.workdir.work(job.key) / FAILURE, failure.model_dump_json(by_alias=True))
            self.view.failed(failed, final=is_final(failed))

    def _failure(self, job: _Job, log: Path) -> StageFailure:
        """What the program says, or what its end says about it."""
        stage, status = job.key[0], job.process.poll() or 0
        said_itself = self.workdir.failure(job.key)
        if said_itself is not None:
            return said_itself
        if status < 0:
            name = signal.Signals(-status).name
            why = "; the system does this when memory runs out" if name == "SIGKILL" else ""
            return StageFailure(stage=stage, kind="Retryable", message=f"ended by {name}{why}")
        said = processes.last_lines(log) or "it said nothing"
        what = "ended without a result" if status == 0 else f"ended with status {status}"
        return StageFailure(stage=stage, kind="Fault", message=f"{what}: {said}")

    def _progress(self) -> list[tuple[str, float, StageProgress | None]]:
        now = self.clock()
        return [(job.key[0], now - job.started, self.workdir.progress_of(job.key)) for job in self._jobs.values()]

    def _publish(self, decided: Plan) -> None:
        """Bring ``current`` in line with what is known of this model's export, once there is one."""
        export = promoted_export(decided.graph)
        if export is None:
            return
        graph = decided.graph
        if not self.serve:  # an earlier run may have verified this export, or failed to
            graph = build(self.model.metadata.name, self.model.spec, self.resolved, self.workdir.manifests())
        verify = graph["verify"]
        remembered = self.workdir.failure((verify.name, verify.digest)) if verify.digest else None
        check = check_of(graph, decided.failed, remembered, wanted=self.serve)
        self.workdir.publish(published(self.workdir.published, export, check))
