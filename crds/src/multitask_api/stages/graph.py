"""From a spec and the manifests in storage to the state of every stage. Pure.

The graph grows as results come in: the inputs of stage 2 are known once the filter has chosen the high-resource tasks,
and a task with a declared baseline gets a trained one only if it scored below the declared one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multitask_api.resource import MultiTaskModelSpec, TaskSpec
from multitask_api.resource.training import HighResourceStage, MixtureStage
from multitask_api.stage_io.manifest import Resolved
from multitask_api.stage_io.parameters import (
    BundleParameters,
    EvaluateParameters,
    ExportParameters,
    FilterParameters,
    LedgerParameters,
    Optimisation,
    StageParameters,
    TaskDefinition,
    TrainParameters,
    VerifyParameters,
)
from multitask_api.stages.affinity_stages import STAGES_OF_GROUPS, add_affinity, add_checks
from multitask_api.stages.group_models import OWN_BASELINE, failed_against_declared, is_own_baseline, tasks_seen
from multitask_api.stages.groups import groups
from multitask_api.stages.node_table import Manifests, NodeTable
from multitask_api.stages.nodes import Graph, NodeState, Ref
from multitask_api.stages.source_parameters import base_parameters, prepare_parameters
from multitask_api.stages.versions import UNRECORDED_VERSIONS, Versions
from multitask_api.stages.warm_start import start_from_previous

SERVING_KINDS = ("verify", "ledger")
"""Kinds of stages that need servers."""
_OF_TRAINING = {"seed": None, "min_steps": None, "learning_rate": None}
"""Without what changes how a stage trains, and not what is chosen for it; so are the first weights of a mixture."""


def build(
    model: str,
    spec: MultiTaskModelSpec,
    resolved: Resolved,
    manifests: Manifests,
    versions: Versions,
    *,
    serve: bool = True,
) -> Graph:
    """The graph of ``spec``; ``manifests`` are those in storage, by (stage name, digest).

    ``versions`` are those of the release that began the run, which may be an older one. ``serve`` adds the stages of
    `SERVING_KINDS`.
    """
    builder = _Builder(model, spec, resolved, manifests, versions)
    builder.add_all(serve=serve)
    open_kinds = frozenset() if builder.groups else STAGES_OF_GROUPS
    return Graph(tuple(builder.nodes.values()), builder.groups, open_kinds)


def baseline_name(task: str, seed: int) -> str:
    """The stage name of one seed of a task's baseline."""
    return f"baseline/{task}/seed-{seed}"


class _Builder:
    """Adds the nodes of a spec in topological order."""

    def __init__(
        self, model: str, spec: MultiTaskModelSpec, resolved: Resolved, manifests: Manifests, versions: Versions
    ) -> None:
        self.model = model
        self.spec = spec
        self.resolved = resolved
        self.groups: Mapping[str, tuple[str, ...]] = groups(spec)
        self.tasks = {task.name: TaskDefinition.of(task) for task in spec.tasks}
        self._table = NodeTable(manifests, versions)
        self.nodes = self._table.nodes

    def add_all(self, *, serve: bool) -> None:
        for task in self.spec.tasks:
            self._prepare(task)
        self._base()
        for task in self.spec.tasks:
            if task.baseline is None and self.spec.stages.baseline.enabled:
                self._baselines(task.name)
        if self.spec.filtering.strategy == "Affinity":
            self.groups = add_affinity(self._table, self.spec, self.tasks)
        self._filter()
        for name in self.groups:
            self._high_resource(name)
            self._mixture(name)
        self._bundle()
        for name in self.groups:
            self._evaluate(name)
        for task_name in failed_against_declared(self._table, self.spec, self.groups):
            self._baselines(task_name)
        self._export()
        if self.spec.filtering.checks:
            optimisation = self._optimisation(self.spec.stages.mixture)
            add_checks(self._table, self.spec, self.tasks, self.groups, optimisation)
        if serve:
            self._verify()
            self._ledger()

    # -- the nodes, in the order in which they run ---------------------------------------------------------------------

    def _prepare(self, task: TaskSpec) -> None:
        parameters = prepare_parameters(task, self.tasks[task.name], self.resolved)
        self._table.add(f"prepare/{task.name}", "prepare", parameters, reads=())

    def _base(self) -> None:
        parameters = base_parameters(self.spec, tuple(self.tasks.values()), self.resolved)
        self._table.add("base", "base", parameters, reads=(), needs=tuple(f"prepare/{name}" for name in self.tasks))

    def _baselines(self, task: str) -> None:
        settings = self.spec.stages.baseline
        reads = [Ref(f"prepare/{task}", split) for split in ("train", "validation", "test")]
        for index in range(settings.seeds):
            seed = self.spec.training.seed + index
            parameters = TrainParameters(
                kind="baseline",
                tasks=(self.tasks[task],),
                probabilities={task: 1.0},
                max_steps=settings.max_steps,
                optimisation=Optimisation.of(self.spec.training, seed=seed, learning_rate=settings.learning_rate),
                tuning=self.spec.tuning.for_baseline(),
                chat_template=self.spec.base_model.chat_template,
            )
            self._table.add(baseline_name(task, seed), "baseline", parameters, reads=[*reads, Ref("base", "model")])

    def _filter(self) -> None:
        declared = {
            task.name: task.baseline.saturation_steps
            for task in self.spec.tasks
            if task.baseline and task.baseline.saturation_steps
        }
        stages = self.spec.stages
        parameters = FilterParameters(
            groups=dict(self.groups),
            high_resource=stages.high_resource.model_copy(update=_OF_TRAINING),
            mixture=stages.mixture.model_copy(update=_OF_TRAINING | {"start": None}),
            batch_rows=self.spec.training.batch_rows,
            baselines_enabled=stages.baseline.enabled,
            declared_saturation_steps=declared,
            total_steps=stages.total_steps,
            weights=self.spec.weights,
        )
        reads = [Ref(f"prepare/{name}", "rows") for name in self.tasks]
        reads += [Ref(name, "saturation") for name in self._table.baseline_names()]
        self._add_with_groups("filter", "filter", parameters, reads)

    def _high_resource(self, group: str) -> None:
        name = f"high-resource/{group}"
        reads = [Ref("filter", name), Ref("base", "model")]
        plan = self._table.group_plan(group)
        if plan is None:
            self._table.add(name, "high-resource", None, reads=reads)
            return
        if not plan.high_resource:
            self._table.skip(name, "high-resource", needs=("filter",), reason=plan.reason)
            return
        budget = self.spec.stages.high_resource.max_steps
        steps = budget if plan.high_resource_steps is None else plan.high_resource_steps
        parameters = TrainParameters(
            kind="high-resource",
            tasks=tuple(self.tasks[task] for task in plan.high_resource),
            probabilities=plan.high_resource_probabilities,
            max_steps=steps,
            optimisation=self._optimisation(self.spec.stages.high_resource, self.spec.stages.validations),
            tuning=self.spec.tuning.for_group(self.groups[group]),
            chat_template=self.spec.base_model.chat_template,
        )
        reads += self._training_reads(plan.high_resource)
        self._table.add(name, "high-resource", parameters, reads=reads)

    def _mixture(self, group: str) -> None:
        plan, tasks = self._table.group_plan(group), self.groups[group]
        before = f"high-resource/{group}"
        reads = [Ref("filter", f"mixture/{group}"), Ref("base", "model"), *self._training_reads(tasks)]
        if plan is None or plan.high_resource:
            reads.append(Ref(before, "model"))
        references = [ref for task in tasks for ref in self._table.baseline_refs(task, "validation")]
        parameters = None
        if plan is not None and all(self._table.output(ref) for ref in references):
            parameters = TrainParameters(
                kind="mixture",
                tasks=tuple(self.tasks[task] for task in tasks),
                probabilities=plan.probabilities,
                max_steps=plan.mixture_steps,
                optimisation=self._optimisation(self.spec.stages.mixture, self.spec.stages.validations),
                tuning=self.spec.tuning.for_group(tasks),
                chat_template=self.spec.base_model.chat_template,
                reference_scores=self._table.reference_scores(tasks),
            )
        name = f"mixture/{group}"
        self._table.add(name, "mixture", parameters, reads=reads + references)
        start_from_previous(self._table, self.model, self.spec, group, tasks, parameters)
        waits = self.nodes[name].state is NodeState.WAITING
        if not waits and self._is_later("mixture") and is_own_baseline(self._table, tasks):
            self._table.skip(
                name,
                "mixture",
                needs=tuple(ref.stage for ref in references),
                reason=f"{tasks[0]} is alone in its group: {OWN_BASELINE}",
                stand_in=self._table.best_baseline(tasks[0]),
            )

    def _bundle(self) -> None:
        training = self.spec.training
        parameters = BundleParameters(
            groups=dict(self.groups),
            tasks=tuple(self.tasks.values()),
            tuning=self.spec.tuning.with_defaults(),
            precision=training.precision,
            max_length=training.max_length,
            chat_template=self.spec.base_model.chat_template,
        )
        reads = [Ref("base", "model"), *(Ref(f"mixture/{group}", "model") for group in self.groups)]
        self._add_with_groups("bundle", "bundle", parameters, reads)

    def _evaluate(self, group: str) -> None:
        tasks = self.groups[group]
        parameters = EvaluateParameters(
            group=group,
            tasks=tuple(self.tasks[task] for task in tasks),
            threshold=self.spec.qualification.threshold,
            rule=self.spec.qualification.rule,
            declared_baselines={
                task.name: task.baseline.score for task in self.spec.tasks if task.baseline and task.name in tasks
            },
            seed=self.spec.training.seed,
        )
        reads = [Ref("bundle", f"group/{group}"), *(Ref(f"prepare/{task}", "test") for task in tasks)]
        if self._is_later("evaluate"):
            reads += [Ref(f"prepare/{task}", "train") for task in tasks_seen(self._table, self.spec, tasks)]
            reads += [ref for task in tasks for ref in self._table.baseline_refs(task, "scores")]
        else:
            reads += [Ref(f"prepare/{task}", "train") for task in self.tasks]
            reads += [Ref(name, "scores") for name in self._table.baseline_names()]
        self._table.add(f"evaluate/{group}", "evaluate", parameters, reads=reads)

    def _export(self) -> None:
        parameters = ExportParameters(
            model=self.model,
            groups=dict(self.groups),
            tasks=tuple(self.tasks.values()),
            promote=self.spec.qualification.promote,
            precision=self.spec.training.precision,
        )
        reads = [Ref("bundle", "bundle"), Ref("base", "model")]
        reads += [Ref(f"evaluate/{group}", "verdicts") for group in self.groups]
        reads += [Ref(name, "model") for name in self._table.baseline_names()]
        reads += [Ref(f"prepare/{task}", "test") for task in self.tasks]
        self._add_with_groups("export", "export", parameters, reads)

    def _verify(self) -> None:
        parameters = VerifyParameters(tasks=tuple(self.tasks.values()), precision=self.spec.training.precision)
        reads = [Ref("export", "bundle"), *(Ref(f"evaluate/{group}", "answers") for group in self.groups)]
        reads += [Ref(name, "scores") for name in self._table.baseline_names()]
        reads += [Ref(f"prepare/{task}", "test") for task in self.tasks]
        self._table.add("verify", "verify", parameters, reads=reads)

    def _ledger(self) -> None:
        trained = [name for group in self.groups for name in (f"high-resource/{group}", f"mixture/{group}")]
        reads = [Ref("export", "bundle"), Ref("base", "model")]
        reads += [Ref(f"prepare/{task}", "test") for task in self.tasks]
        reads += [Ref(name, "model") for name in self._table.baseline_names()]
        reads += [Ref(name, "model") for name in trained if self.nodes[name].state is not NodeState.SKIPPED]
        self._table.add("ledger", "ledger", LedgerParameters(), reads=reads)

    def _add_with_groups(self, name: str, kind: str, parameters: StageParameters, reads: Sequence[Ref]) -> None:
        """Add a node whose parameters have the groups: while these are not known, it waits for ``affinity``."""
        if self.groups:
            self._table.add(name, kind, parameters, reads=reads)
        else:
            self._table.add(name, kind, None, reads=reads, needs=("affinity",))

    # -- what several nodes need ---------------------------------------------------------------------------------------

    def _is_later(self, kind: str) -> bool:
        """Whether the run began with a later release than those that recorded no versions: its graph differs."""
        return self._table.versions[kind] > UNRECORDED_VERSIONS[kind]

    def _optimisation(self, stage: HighResourceStage | MixtureStage, validations: int | None = None) -> Optimisation:
        return Optimisation.of(
            self.spec.training,
            seed=stage.seed,
            min_steps=stage.min_steps,
            validations=validations,
            learning_rate=stage.learning_rate,
        )

    def _training_reads(self, tasks: Sequence[str]) -> list[Ref]:
        return [Ref(f"prepare/{task}", split) for task in tasks for split in ("train", "validation")]
