"""What answers a group's tasks, and what that has been trained on: functions of the nodes so far. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stage_io.results import BaseResult, EvaluateResult
from multitask_api.stages.node_table import NodeTable

OWN_BASELINE = "its baseline is the group's model"
"""Why the mixture of a task that is alone in its group is skipped."""


def is_own_baseline(table: NodeTable, tasks: Sequence[str]) -> bool:
    """Whether a group of ``tasks`` is one task with a trained baseline: a mixture would be the same training again."""
    return len(tasks) == 1 and bool(table.baseline_refs(tasks[0], "model"))


def tasks_seen(table: NodeTable, spec: MultiTaskModelSpec, tasks: Sequence[str]) -> list[str]:
    """The tasks whose train rows the models of a group of ``tasks`` have seen: these, and those in the pre-training."""
    base, pretraining = table.nodes["base"].manifest, spec.pretraining
    seen = set(tasks)
    if base is not None and base.result and pretraining is not None and pretraining.tasks_text:
        seen |= set(BaseResult.model_validate(base.result).tasks)
    return [task.name for task in spec.tasks if task.name in seen]


def failed_against_declared(
    table: NodeTable, spec: MultiTaskModelSpec, groups: Mapping[str, Sequence[str]]
) -> list[str]:
    """Tasks that their mixture may not answer, by their declared baseline: one is trained now, to serve them."""
    failed = []
    for group, tasks in groups.items():
        manifest = table.nodes[f"evaluate/{group}"].manifest
        if manifest is None:
            continue
        for verdict in EvaluateResult.model_validate(manifest.result).tasks:
            declared = verdict.task in tasks and spec.task(verdict.task).baseline is not None
            stays_open = verdict.verdict == "Inconclusive" and not verdict.is_surely_better
            if declared and (verdict.verdict == "NotQualified" or stays_open):
                failed.append(verdict.task)
    return failed
