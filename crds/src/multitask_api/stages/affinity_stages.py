"""The stages of filtering by affinity: each task's gradients, the groups, and the check of a group's harm. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stage_io.affinity import AffinityResult
from multitask_api.stage_io.parameters import (
    AffinityParameters,
    CheckParameters,
    GradientsParameters,
    Optimisation,
    TaskDefinition,
)
from multitask_api.stage_io.results import EvaluateResult, TaskVerdict
from multitask_api.stages.groups import groups
from multitask_api.stages.node_table import NodeTable
from multitask_api.stages.nodes import Ref

ROWS = 256
"""The default of ``filtering.rows``."""
SHORT = 4
"""A run of the stage ``check`` has a quarter of the steps of its group's mixture."""
STAGES_OF_GROUPS = frozenset({"high-resource", "mixture", "evaluate"})
"""The kinds of which every group has a stage."""


def add_affinity(
    table: NodeTable, spec: MultiTaskModelSpec, tasks: Mapping[str, TaskDefinition]
) -> Mapping[str, tuple[str, ...]]:
    """Add the nodes that find the groups; the groups, empty while they are not known."""
    for name, task in tasks.items():
        parameters = GradientsParameters(
            task=task,
            rows=spec.filtering.rows or ROWS,
            target_modules=spec.tuning.target_modules,
            max_length=spec.training.max_length,
            seed=spec.training.seed,
            chat_template=spec.base_model.chat_template,
            precision="fp32" if spec.training.precision == "fp32" else None,
        )
        reads = [Ref(f"prepare/{name}", "train"), Ref("base", "model")]
        table.add(gradients_name(name), "gradients", parameters, reads=reads)
    candidates = AffinityParameters(candidates=groups(spec), max_groups=spec.filtering.max_groups)
    table.add("affinity", "affinity", candidates, reads=[Ref(gradients_name(name), "gradients") for name in tasks])
    result = affinity_of(table)
    return result.groups if result else {}


def gradients_name(task: str) -> str:
    """The stage name of the gradients of a task."""
    return f"gradients/{task}"


def affinity_of(table: NodeTable) -> AffinityResult | None:
    """What the stage ``affinity`` found; None while it is not done, and under other strategies."""
    node = table.nodes.get("affinity")
    return AffinityResult.model_validate(node.manifest.result) if node and node.manifest else None


def add_checks(
    table: NodeTable,
    spec: MultiTaskModelSpec,
    tasks: Mapping[str, TaskDefinition],
    found: Mapping[str, Sequence[str]],
    optimisation: Optimisation,
) -> None:
    """Add a node for every task: skipped, unless the task is below the threshold and others of its group hurt it."""
    group_of = {task: group for group, members in found.items() for task in members}
    for task in tasks:
        name, group = f"check/{task}", group_of.get(task)
        affinity, verdict = affinity_of(table), _verdict(table, task, group)
        plan = table.group_plan(group) if group is not None else None
        if affinity is None or verdict is None or plan is None or group is None:
            needs = ("affinity",) if group is None else (f"evaluate/{group}",)
            table.add(name, "check", None, reads=(), needs=needs)
            continue
        without = affinity.hurting(task, found[group])
        reason = "" if is_below(verdict, spec) else "it reaches the threshold"
        reason = reason or ("" if without else "no task of its group hurts it by its gradients")
        if reason:
            table.skip(name, "check", needs=(f"evaluate/{group}",), reason=f"{task}: {reason}")
            continue
        parameters = CheckParameters(
            task=task,
            without=without,
            tasks=tuple(tasks[member] for member in found[group]),
            probabilities=plan.probabilities,
            max_steps=max(1, plan.mixture_steps // SHORT),
            optimisation=optimisation,
            tuning=spec.tuning.with_defaults(),
            chat_template=spec.base_model.chat_template,
        )
        reads = [Ref(f"prepare/{member}", split) for member in found[group] for split in ("train", "validation")]
        table.add(name, "check", parameters, reads=[*reads, Ref("base", "model")], needs=(f"evaluate/{group}",))


def is_below(verdict: TaskVerdict, spec: MultiTaskModelSpec) -> bool:
    """Whether a task falls short of ``qualification.threshold`` by the ratio that its verdict is by."""
    ratio = verdict.judged_ratio
    return verdict.verdict == "NotQualified" or (ratio is not None and ratio < spec.qualification.threshold)


def _verdict(table: NodeTable, task: str, group: str | None) -> TaskVerdict | None:
    manifest = table.nodes[f"evaluate/{group}"].manifest if group is not None else None
    if manifest is None:
        return None
    return next(item for item in EvaluateResult.model_validate(manifest.result).tasks if item.task == task)
