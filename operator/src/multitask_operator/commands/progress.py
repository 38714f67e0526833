"""How `mtm run` shows progress: lines for a log, or a live display on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from multitask_api.stage_io.manifest import Manifest, StagePosition, StageProgress
from multitask_api.stages import NodeState
from multitask_operator.formatting import duration
from multitask_operator.planner import Failed, Plan

#: (stage, seconds so far, last reported progress) of every running stage.
RunningStages = list[tuple[str, float, StageProgress | None]]
_PROGRESS_SECONDS = 15.0


class LineView:
    """A line when a stage starts or ends, and at most one line of progress every 15 seconds."""

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stderr
        self._clock = clock
        self._last_progress = clock()

    def line(self, text: str) -> None:
        """Write a line."""
        self._out.write(text + "\n")
        self._out.flush()

    def started(self, stage: str, attempt: int) -> None:
        """See ProgressView.started."""
        self.line(f"start  {stage}" + (f" (attempt {attempt})" if attempt > 1 else ""))

    def finished(self, stage: str, seconds: float, manifest: Manifest) -> None:
        """See ProgressView.finished."""
        self.line(f"done   {stage}  {duration(seconds)}{summary(manifest)}")

    def failed(self, stage: str, failed: Failed, *, final: bool) -> None:
        """See ProgressView.failed."""
        outcome = "FAILED" if final else "failed, will be tried again:"
        self.line(f"{outcome} {stage}: {failed.failure.message}")

    def stopped(self, stage: str, reason: str) -> None:
        """See ProgressView.stopped."""
        self.line(f"stop   {stage}: {reason}")

    def progress(self, plan: Plan, running: RunningStages) -> None:
        """See ProgressView.progress."""
        now = self._clock()
        if now - self._last_progress < _PROGRESS_SECONDS or not running:
            return
        self._last_progress = now
        self.line("       " + " · ".join(describe(*item) for item in running))

    def live(self) -> AbstractContextManager[object]:
        """Nothing to set up for lines."""
        return nullcontext()


class LiveView(LineView):
    """The same lines, with a live block below them that shows the running stages."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def line(self, text: str) -> None:
        """Write one line above the block."""
        style = "red" if text.startswith("FAILED") else "dim" if text.startswith("start") else ""
        self._console.print(Text(text, style=style))

    def progress(self, plan: Plan, running: RunningStages) -> None:
        """Redraw the block."""
        nodes = plan.graph.nodes
        done = sum(node.state in (NodeState.DONE, NodeState.SKIPPED) for node in nodes)
        head = Text(f"{done} of {len(nodes)} stages done", style="bold")
        lines = [Text("  " + describe(*item), no_wrap=True, overflow="ellipsis") for item in running]
        self._live.update(Group(head, *lines))

    def live(self) -> AbstractContextManager[object]:
        """The live display; it draws while it is entered."""
        return self._live


def view_for_terminal() -> LineView:
    """The live view on a terminal, lines elsewhere. Both write to standard error."""
    return LiveView() if sys.stderr.isatty() else LineView()


def describe(stage: str, seconds: float, progress: StageProgress | None) -> str:
    """The state of a running stage, and of those that train together with it, in one line."""
    if progress is None:
        return f"{stage} {duration(seconds)}"
    positions = [_describe_position(stage, progress)]
    positions += [_describe_position(each.stage, each) for each in progress.together or ()]
    return f"{' · '.join(positions)} {duration(seconds)}"


def _describe_position(stage: str, progress: StagePosition) -> str:
    parts = [stage, progress.phase]
    if progress.total:
        parts.append(f"{progress.step}/{progress.total}")
    parts += [
        f"{name} {value:.3f}"
        for name, value in (("loss", progress.loss), ("score", progress.score))
        if value is not None
    ]
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    return " ".join(filter(None, parts))


def summary(manifest: Manifest) -> str:
    """The main figure of a stage's result; empty if it has none."""
    result = manifest.result
    score, rows = result.get("testScore"), result.get("rows")
    if isinstance(score, float):
        return f"  test score {score:.3f} at step {result.get('chosenStep')}"
    if isinstance(rows, dict):
        return "  " + ", ".join(f"{split} {count:,}" for split, count in rows.items()) + " rows"
    if "chosenStep" in result:
        return f"  step {result['chosenStep']} of {result.get('steps')} chosen"
    if "different" in result:
        return f"  {result.get('equal')} of {result.get('compared')} answers equal, {result['different']} different"
    return ""
