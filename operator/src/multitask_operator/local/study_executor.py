"""Executes the runs of a study: one set of processes, planned for all runs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask_api.stage_io.manifest import Resolved
from multitask_api.stages import ArtifactKey, artifact_filename
from multitask_operator.local.executor import Executor
from multitask_operator.planner import Plan
from multitask_operator.study.arms import Run, names_of_runs
from multitask_operator.study.graphs import StudyGraphs, Target, keys_of, study_graphs
from multitask_operator.study.schedule import merged, plan_targets


@dataclass
class StudyExecutor(Executor):
    """Runs the stages of all ``runs`` in one work folder; ``model`` and ``resolved`` are those of the study's file.

    Runs of different arms have stages of the same name at the same time, so each result has its own log.
    """

    runs: Sequence[tuple[Run, Resolved]] = ()
    total_steps: int | None = None
    """As the study or the model gives them; see `study_graphs`."""
    steps_known: Callable[[int], None] = lambda _steps: None
    """Called once with the steps, if they follow from the baselines."""
    _planned: tuple[tuple[Target, Plan], ...] = ()
    _are_steps_known: bool = False

    @property
    def graphs(self) -> StudyGraphs:
        """The targets, by what is in storage now."""
        return study_graphs(self.runs, self.total_steps, self.workdir.manifests())

    def log(self, key: ArtifactKey) -> Path:
        """See `Executor.log`."""
        return self.workdir.log(artifact_filename(key))

    def label(self, key: ArtifactKey) -> str:
        """The stage, and the arms and the seed that it is of."""
        runs = [target.run for target, plan in self._planned if target.run is not None and key in keys_of(plan.graph)]
        return f"{key[0]} ({names_of_runs(runs, [run for run, _ in self.runs])})"

    def _reconcile(self) -> Plan:
        graphs = self.graphs
        targets = graphs.targets
        if graphs.total_steps is not None and not self._are_steps_known:
            self._are_steps_known = True
            self.steps_known(graphs.total_steps)
        plans = plan_targets(targets, self._planner_input(), self.clock())
        self._planned = tuple(zip(targets, plans, strict=True))
        for plan in plans:
            for start in plan.starts:
                self._start(start, plan)
        return merged(plans, is_running=bool(self._jobs))
