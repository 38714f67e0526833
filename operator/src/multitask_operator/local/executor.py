"""Executes plans: starts and stops stage processes, and gives the planner what it observes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import Manifest, Resolved, StageFailure, StageOrder, StageProgress
from multitask_api.stages import ArtifactKey, build
from multitask_api.stages.versions import Versions
from multitask_operator.local import processes
from multitask_operator.local.promotion import next_published, promoted_export, verify_outcome
from multitask_operator.local.workdir import FAILURE, Workdir, write_atomically
from multitask_operator.planner import Capacity, Failed, Plan, PlannerInput, Running, StartStage, is_final, plan
from multitask_operator.planner.orders import stage_order

#: Seconds that a stage has after SIGTERM to write a checkpoint.
STOP_GRACE_SECONDS = 20.0


class ProgressView(Protocol):
    """Shows the user what happens."""

    def started(self, stage: str, attempt: int) -> None:
        """A stage program was started."""

    def finished(self, stage: str, seconds: float, manifest: Manifest) -> None:
        """A stage finished with a result."""

    def failed(self, stage: str, failed: Failed, *, final: bool) -> None:
        """A stage ended without a result; ``final``: it is not tried again."""

    def stopped(self, stage: str, reason: str) -> None:
        """A stage is being stopped."""

    def progress(self, plan: Plan, running: list[tuple[str, float, StageProgress | None]]) -> None:
        """Called several times a second with (stage, seconds so far, last progress) of every running stage."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended. ``stage_seconds``: stage → seconds, of the stages that this run ran, without cached ones."""

    plan: Plan
    stage_seconds: dict[str, float]
    interrupted: bool = False


@dataclass
class _Job:
    key: ArtifactKey
    process: processes.Process
    started: float
    attempt: int
    log: Path
    stopping: bool = False
    gpu: str | None = None
    has_company: bool = False
    """Whether its process was started for other stages too."""


@dataclass
class Executor:
    """One run of one model in one work folder. The caller holds the folder's lock."""

    workdir: Workdir
    model: MultiTaskModel
    resolved: Resolved
    versions: Versions
    data_root: Path
    capacity: Capacity
    view: ProgressView
    launcher: processes.Launcher
    serve: bool = True
    interrupted: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.time
    poll: float = 0.2
    device: str = "auto"
    _jobs: dict[ArtifactKey, _Job] = field(default_factory=dict)
    _failures: dict[ArtifactKey, Failed] = field(default_factory=dict)
    _stage_seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> RunResult:
        """Run until nothing is left to do, a failure blocks the rest, or the user interrupts."""
        try:
            current = self._reconcile()
            requeue_at = self._requeue_at(current)
            while not current.finished:
                if self.interrupted():
                    self._interrupt()
                    return RunResult(current, self._stage_seconds, interrupted=True)
                time.sleep(self.poll)
                if self._reap() or self.clock() >= requeue_at:
                    current = self._reconcile()
                    requeue_at = self._requeue_at(current)
                self.view.progress(current, self._progress())
            return RunResult(current, self._stage_seconds)
        finally:
            processes.stop_all([job.process for job in self._jobs.values()], STOP_GRACE_SECONDS)

    def _interrupt(self) -> None:
        """Stop everything, and say of each stage where the next run goes on with it."""
        for job in self._jobs.values():
            self.view.stopped(self.label(job.key), f"interrupted; it has {STOP_GRACE_SECONDS:.0f} s to end")
        processes.stop_all([job.process for job in self._jobs.values()], STOP_GRACE_SECONDS)
        manifests = self.workdir.manifests()
        for job in self._jobs.values():
            failure = self.workdir.failure(job.key)  # training that wrote a checkpoint says after which step
            if job.key in manifests:
                outcome = "it was just done"
            elif failure is not None:
                outcome = failure.message
            elif has_checkpoint(self.workdir.work(job.key)):
                outcome = "stopped; the next run goes on from its last checkpoint"
            else:
                outcome = "stopped without a checkpoint; the next run begins it again"
            self.view.stopped(self.label(job.key), outcome)

    def _reconcile(self) -> Plan:
        """Observe, plan, act."""
        current_plan = plan(self.model, self._planner_input(), self.clock())
        for stop in current_plan.stops:
            job = self._jobs.get(stop.key)
            if job is not None:
                job.stopping = True
                processes.signal_group(job.process.pid, signal.SIGTERM)
                self.view.stopped(stop.stage, stop.reason)
        for start in current_plan.starts:
            self._start(start, current_plan)
        self._publish(current_plan)
        return current_plan

    def _planner_input(self) -> PlannerInput:
        return PlannerInput(
            resolved=self.resolved,
            manifests=self.workdir.manifests(),
            versions=self.versions,
            capacity=self.capacity,
            running=tuple(self._running()),
            failures=tuple(self._failures.values()),
            serve=self.serve,
        )

    def _running(self) -> Iterator[Running]:
        """Of a process with several stages the first one that is left stands for it."""
        seen: set[int] = set()
        for job in self._jobs.values():
            yield Running(*job.key, job.started, job.stopping, job.gpu, shares_process=job.process.pid in seen)
            seen.add(job.process.pid)

    def log(self, key: ArtifactKey) -> Path:
        """The log of all attempts of a stage."""
        return self.workdir.log(key[0])

    def label(self, key: ArtifactKey) -> str:
        """A stage as the user sees it."""
        return key[0]

    def _requeue_at(self, current_plan: Plan) -> float:
        return float("inf") if current_plan.requeue_after is None else self.clock() + current_plan.requeue_after

    def _start(self, action: StartStage, current_plan: Plan) -> None:
        starts = [start for start in action.each if self._is_new(start)]
        if not starts:
            return
        for start in starts:
            self._write_order(start, current_plan)
        environment = processes.environment(self.workdir.path, action.threads, action.gpu)
        orders, log = [self.workdir.order(start.key) for start in starts], self.log(starts[0].key)
        process = self.launcher.start(action.node.kind, orders, log, environment)
        for start in starts:
            job = _Job(start.key, process, self.clock(), start.attempt, log, gpu=start.gpu)
            job.has_company = len(starts) > 1
            self._jobs[start.key] = job
            self.view.started(self.label(start.key), start.attempt)
            if start is not starts[0]:
                self._log_line(start, f"trains together with {starts[0].node.name}: see {log}")

    def _is_new(self, start: StartStage) -> bool:
        previous = self._failures.get(start.key)
        return start.key not in self._jobs and (previous is None or previous.attempts < start.attempt)

    def _write_order(self, start: StartStage, current_plan: Plan) -> None:
        key = start.key
        order = self._order(start, current_plan)
        write_atomically(self.workdir.order(key), order.model_dump_json(by_alias=True, indent=1))
        self.workdir.progress(key).unlink(missing_ok=True)
        (self.workdir.work(key) / FAILURE).unlink(missing_ok=True)
        (self.workdir.artifact(key) / "manifest.json").unlink(
            missing_ok=True
        )  # it is incomplete, or the stage would not start
        stamp = datetime.fromtimestamp(self.clock()).astimezone().isoformat(timespec="seconds")
        on = f", GPU {start.gpu}" if start.gpu is not None else ""
        self._log_line(
            start, f"=== {stamp} {self.label(key)} {key[1]} attempt {start.attempt}, {start.threads} threads{on}"
        )

    def _log_line(self, start: StartStage, line: str) -> None:
        log = self.log(start.key)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def _order(self, action: StartStage, current_plan: Plan) -> StageOrder:
        return stage_order(
            self.model.metadata.name,
            current_plan.graph,
            action.node,
            lambda key: str(self.workdir.artifact(key)),
            work=str(self.workdir.work(action.key)),
            progress=str(self.workdir.progress(action.key)),
            threads=action.threads,
            device=self.device,
            data_root=str(self.data_root),
            gradient_checkpointing=self.model.spec.training.gradient_checkpointing,
            report_to=self.model.spec.training.report_to,
        )

    def _reap(self) -> bool:
        """Record the results of stages that have ended; whether there were any."""
        ended = [job for job in self._jobs.values() if self._has_ended(job)]
        for job in ended:
            del self._jobs[job.key]
            if job.process.poll() is not None:  # processes that it started and did not stop
                processes.signal_group(job.process.pid, signal.SIGKILL)
            self._record_result(job)
        return bool(ended)

    def _has_ended(self, job: _Job) -> bool:
        """Whether its process has, or of several stages in one process this one has."""
        if job.process.poll() is not None:
            return True
        is_shared = sum(other.process is job.process for other in self._jobs.values()) > 1
        return is_shared and ((self.workdir.artifact(job.key) / "manifest.json").exists() or self._has_failed(job))

    def _has_failed(self, job: _Job) -> bool:
        return self.workdir.failure(job.key) is not None

    def _record_result(self, job: _Job) -> None:
        stage, seconds = job.key[0], self.clock() - job.started
        manifest = self.workdir.manifests().get(job.key)
        if manifest is not None:
            self._failures.pop(job.key, None)
            seconds = manifest.seconds if job.has_company else seconds  # its share of the time of its process
            self._stage_seconds[stage] = self._stage_seconds.get(stage, 0.0) + seconds
            self.view.finished(self.label(job.key), seconds, manifest)
        elif not job.stopping:
            failure = self._failure(job, job.log)
            if job.has_company and failure.kind == "Fault":  # it may be of the others; by itself it is tried once more
                failure = failure.model_copy(update={"kind": "Retryable"})
            failed = Failed(failure, job.key[1], job.attempt, self.clock(), str(job.log))
            self._failures[job.key] = failed
            write_atomically(self.workdir.work(job.key) / FAILURE, failure.model_dump_json(by_alias=True))
            self.view.failed(self.label(job.key), failed, final=is_final(failed))

    def _failure(self, job: _Job, log: Path) -> StageFailure:
        """The failure that the program reported, else one made from its exit status."""
        stage, status = job.key[0], job.process.poll() or 0
        reported = self.workdir.failure(job.key)
        if reported is not None:
            return reported
        if status < 0:
            name = signal.Signals(-status).name
            hint = "; the system does this when memory runs out" if name == "SIGKILL" else ""
            return StageFailure(stage=stage, kind="Retryable", message=f"killed by {name}{hint}")
        last_line = processes.last_lines(log) or "its log is empty"
        end = "ended without a result" if status == 0 else f"ended with status {status}"
        return StageFailure(stage=stage, kind="Fault", message=f"{end}: {last_line}")

    def _progress(self) -> list[tuple[str, float, StageProgress | None]]:
        now = self.clock()
        return [
            (self.label(job.key), now - job.started, self.workdir.progress_of(job.key)) for job in self._jobs.values()
        ]

    def _publish(self, current_plan: Plan) -> None:
        """Update the links to the served and the verified export, once this model has an export."""
        export = promoted_export(current_plan.graph)
        if export is None:
            return
        graph = current_plan.graph
        if not self.serve:  # an earlier run may have verified this export, or failed to
            name, manifests = self.model.metadata.name, self.workdir.manifests()
            graph = build(name, self.model.spec, self.resolved, manifests, self.versions)
        verify = graph["verify"]
        last_failure = self.workdir.failure((verify.name, verify.digest)) if verify.digest else None
        check = verify_outcome(graph, current_plan.failed, last_failure, wanted=self.serve)
        self.workdir.publish(next_published(self.workdir.published, export, check))


def has_checkpoint(work: Path) -> bool:
    """Whether a training has left one in the work folder of its stage."""
    return any(path.is_file() or any(path.iterdir()) for path in work.rglob("checkpoint"))
