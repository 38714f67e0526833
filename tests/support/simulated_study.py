"""A study whose stages "run" at once. The filter plans as the real one does; scores are what a test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from multitask_api.resource.parsing import check as check_model
from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.parameters import EvaluateParameters, FilterParameters, TrainParameters
from multitask_api.stage_io.results import FilterResult, TaskVerdict
from multitask_api.stages import ArtifactKey, Node, NodeState
from multitask_api.stages.budgets import divide
from multitask_api.stages.digests import digest
from multitask_operator.planner import Failed
from multitask_operator.study.arms import Run, arms_of, runs_of
from multitask_operator.study.build import build_study_report
from multitask_operator.study.graphs import StudyGraphs, Target, study_graphs
from multitask_operator.study.report import StudyReport
from multitask_operator.study.spec import check
from multitask_trainer.training.group_plan import GroupInputs, Saturation, divide_steps, plan_group
from support import graph_builders
from support.simulated_stages import manifest_of

BATCH_ROWS = 16
SATURATION = {"urgency": (300, 350), "intent": (900, 950), "escalate": (40, 60), "reply": (200, 240)}
"""Task → the saturation and the chosen step of its baseline."""
BASELINE_SCORE, FLOOR = 0.8, 0.7
SPEED = {"Full": 9000.0, "LoRA": 12_000.0, "CGCLoRA": 10_000.0}
"""Tuning method → training tokens a second; pre-training has that of Full."""


def model_document(*tasks: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Three classification tasks and one of generation, or ``tasks``."""
    named = [graph_builders.task(name) for name in ("urgency", "intent", "escalate")]
    chosen = list(tasks) or [*named, graph_builders.task("reply", "Generation")]
    base = {"baseModel": {"uri": "builtin://tiny"}, "tuning": {"method": "Full"}, "training": {"batchRows": BATCH_ROWS}}
    return {"metadata": {"name": "desk"}, "spec": {**base, "tasks": chosen, **spec}}


def study_document(**fields: Any) -> dict[str, Any]:
    """Two strategies and two temperatures with three seeds, or what ``fields`` say."""
    grid = {"filtering.strategy": {"values": ["Type", "None"]}, "stages.mixture.temperature": {"values": [1, 2]}}
    chosen = {} if "arms" in fields else {"parameters": grid}
    return {"kind": "Study", "metadata": {"name": "groups"}, "model": "model.yaml", **chosen, **fields}


def no_effect(_arm: str, _seed: int, _task: str) -> float:
    """Every run scores what the baselines do."""
    return BASELINE_SCORE


@dataclass
class SimulatedStudy:
    """``score``: arm, seed, task → the score on the test rows; ``inconclusive``: the cause of an open verdict, or "".

    ``baseline_score``: of the baselines of an arm; ``improving``: tasks whose baselines were at their limit.
    ``manifests``: what is in storage.
    """

    study: dict[str, Any] = field(default_factory=study_document)
    model: dict[str, Any] = field(default_factory=model_document)
    score: Callable[[str, int, str], float] = no_effect
    inconclusive: Callable[[str, int, str], str] = lambda _arm, _seed, _task: ""
    baseline_score: Callable[[str], float] = lambda _arm: BASELINE_SCORE
    improving: tuple[str, ...] = ()
    manifests: dict[ArtifactKey, Manifest] = field(default_factory=dict)
    failing: Callable[[Node, Target], bool] = lambda _node, _target: False
    failures: list[Failed] = field(default_factory=list)

    @property
    def runs(self) -> tuple[Run, ...]:
        study = check(self.study)
        return runs_of(study, arms_of(study, self.model))

    @property
    def resource(self) -> Any:
        return check_model(self.model)

    def graphs(self, *, preview: bool = False) -> StudyGraphs:
        found = self._runs
        study = check(self.study)
        total = study.total_steps or self.resource.spec.stages.total_steps
        pairs = [(run, graph_builders.resolved(run.arm.model)) for run in found]
        return study_graphs(pairs, total, self.manifests, preview=preview)

    def __post_init__(self) -> None:
        self._runs = self.runs

    def run(self, until: str = "") -> list[str]:
        """Run everything that is missing, up to (not with) the kind ``until``; the names of the stages, in order."""
        ran = []
        while ready := self._ready(until):
            for node, target in ready:
                key = (node.name, node.digest or "")
                if key in self.manifests or any((item.failure.stage, item.digest) == key for item in self.failures):
                    continue
                if self.failing(node, target):
                    self.failures.append(graph_builders.failed(node))
                    continue
                self.manifests[key] = self._manifest(node, target)
                ran.append(node.name)
        return ran

    def report(self, before: frozenset[ArtifactKey] = frozenset()) -> StudyReport:
        return build_study_report("groups", self.resource, self.graphs(), self.failures, before=before, now=0.0)

    def _ready(self, until: str) -> list[tuple[Node, Target]]:
        failed = {(item.failure.stage, item.digest) for item in self.failures}
        return [
            (node, target)
            for target in self.graphs().targets
            for node in target.graph.nodes
            if node.state is NodeState.READY and node.kind != until and (node.name, node.digest) not in failed
        ]

    def _manifest(self, node: Node, target: Target) -> Manifest:
        if node.kind == "baseline":
            task = node.name.split("/")[1]
            saturation, chosen = SATURATION[task]
            improving = task in self.improving
            changes = {"saturation_step": saturation, "chosen_step": chosen, "still_improving": improving}
            changes["tokens_per_second"] = SPEED[target.model.spec.tuning.for_baseline().method]
            return graph_builders.manifest(node, target.model, **changes)
        if isinstance(node.parameters, FilterParameters):
            return _filter(node, node.parameters)
        if isinstance(node.parameters, TrainParameters):
            rows = divide(node.parameters.max_steps * BATCH_ROWS, node.parameters.probabilities)
            changes = {"rows_given": rows, "tokens": 20 * sum(rows.values()), "steps": node.parameters.max_steps}
            changes["tokens_per_second"] = SPEED[node.parameters.tuning.method]
            return graph_builders.manifest(node, target.model, **changes)
        if isinstance(node.parameters, EvaluateParameters) and target.run is not None:
            verdicts = tuple(self._verdict(target.run, item.name) for item in node.parameters.tasks)
            return graph_builders.manifest(node, target.model, tasks=verdicts)
        return graph_builders.manifest(node, target.model)

    def _verdict(self, run: Run, task: str) -> TaskVerdict:
        score, baseline = self.score(run.arm.name, run.seed, task), self.baseline_score(run.arm.name)
        cause = self.inconclusive(run.arm.name, run.seed, task)
        judged: Any = "Qualified" if score / baseline >= 0.99 else "NotQualified"
        return TaskVerdict(
            task=task,
            score=score,
            baseline=baseline,
            ratio=score / baseline,
            verdict="Inconclusive" if cause else judged,
            cause=cause,
            test_rows=100,
            floor=FLOOR,
        )


def _filter(node: Node, parameters: FilterParameters) -> Manifest:
    """As the stage program plans it."""
    inputs = [
        GroupInputs(
            group,
            {task: graph_builders.ROWS[task] for task in tasks},
            {task: Saturation(*SATURATION[task]) for task in tasks},
            parameters.batch_rows,
            is_trained=len(tasks) > 1,
        )
        for group, tasks in parameters.groups.items()
    ]
    shares = {} if parameters.total_steps is None else divide_steps(parameters.total_steps, inputs)
    plans = [
        plan_group(item, parameters.high_resource, parameters.mixture, share=shares.get(item.name)) for item in inputs
    ]
    outputs = {f"{kind}/{plan.name}": digest(plan.to_json()) for plan in plans for kind in ("high-resource", "mixture")}
    return manifest_of(node, FilterResult(groups=tuple(plans)).to_json(), outputs, 2.0)
