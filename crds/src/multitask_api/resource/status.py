"""``MultiTaskModel.status``: output only; no decision reads it except for ``lastTransitionTime``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from multitask_api.types import Record

Short = Annotated[str, StringConstraints(max_length=64)]
Message = Annotated[str, StringConstraints(max_length=1024)]


class Condition(Record):
    """One aspect of the state, in the form of Kubernetes conditions."""

    type: Short = Field(
        description="Ready: servers answer for the tasks. Progressing: work is under way. Consolidated: all tasks "
        "qualify for the shared models. Trained, Complete, Failed: how training ended, to wait for. Reconciling, "
        "Stalled: there while true, as kstatus reads them."
    )
    status: Literal["True", "False", "Unknown"] = Field(
        description="True, False, or Unknown if it could not be determined."
    )
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=64)] = Field(
        description="Why, as one CamelCase word for programs."
    )
    message: Message = Field("", description="Why, for people: the object, row or task concerned and what to do.")
    observed_generation: int | None = Field(
        None, description="The metadata.generation that this condition was determined for."
    )
    last_transition_time: Annotated[str, StringConstraints(max_length=40)] | None = Field(
        None, description="When the status of the condition last changed."
    )


class TaskStatus(Record):
    """The result of one task."""

    name: Annotated[str, StringConstraints(max_length=63)] = Field(description="Name of the task.")
    group: Short | None = Field(None, description="The group of tasks that it is trained with.")
    baseline: float | None = Field(
        None, description="Test score of its single-task model, the mean over seeds, or as declared."
    )
    score: float | None = Field(None, description="Test score of the shared model of its group. Absent until scored.")
    ratio: float | None = Field(None, description="score divided by baseline.")
    verdict: Literal["Qualified", "NotQualified", "Inconclusive", "NoBaseline"] | None = Field(
        None,
        description="Qualified or NotQualified: the ratio against qualification.threshold. Inconclusive: too uncertain "
        "to tell. NoBaseline: nothing to compare with. Absent until scored.",
    )
    served_by: Short | None = Field(
        None,
        description="The group whose shared model answers the task, or baseline for its single-task model. Absent if "
        "none does.",
    )
    reason: Short | None = Field(
        None,
        description="Why, as one CamelCase word: Qualified; SurelyBetter: the verdict is open, but the shared model is "
        "surely at least as good as all else that could answer; or why not: BelowThreshold, BaselineAtFloor, "
        "BaselineStillImproving, IntervalTooWide and so on. Absent until routed.",
    )


class StageStatus(Record):
    """The stages of one kind, counted together."""

    name: Short = Field(description="Kind of stage: prepare, base, baseline, filter, high-resource, mixture and so on.")
    total: int = Field(0, description="Number of stages of this kind.")
    done: int = Field(0, description="Number of those that are finished or were not needed.")
    skipped: int = Field(0, description="Number of those that were not needed. They count as done too.")
    skip_reason: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        None, description="Why the first of them was not needed. Absent if none was skipped."
    )
    running: int = Field(0, description="Number of those that are running or being started.")
    failed: int = Field(0, description="Number of those that failed.")
    progress: Short | None = Field(
        None, description="Step, loss and remaining time of one that is running. Absent if none reports any."
    )


class ServingStatus(Record):
    """The servers of the model; the scale subresource reads it."""

    revision: Short | None = Field(None, description="The revision that answers. Absent: none does yet.")
    replicas: int = Field(0, description="Server pods of all revisions that there are.")
    ready_replicas: int = Field(0, description="Number of those that answer.")
    phase: Short | None = Field(
        None,
        description="One word: the phase of the rollout under way or of the last one, or why nothing is served.",
    )
    selector: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="Selects the server pods, for autoscalers."
    )


class MultiTaskModelStatus(Record):
    """The state of training and its results, written by the operator. `kubectl get mtm` and `mtm status` show it."""

    observed_generation: int | None = Field(
        None, description="The metadata.generation that this status was determined for."
    )
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = Field(
        (),
        description="Ready, Progressing, Consolidated, Trained, Complete, Failed, and at times Reconciling, Stalled, "
        "ConfigurationWarning or NameTaken.",
    )
    stage: Short | None = Field(
        None,
        description="The kind of stage that is running, or one word for the state: Pending, Blocked, Failed, "
        "Suspended, Trained, or the reason of the condition Ready.",
    )
    progress: Short | None = Field(None, description="Finished stages of all stages, for example 3/9 stages.")
    progress_time: Short | None = Field(None, description="When this status was written.")
    qualified: Short | None = Field(
        None, description="Qualified tasks of all tasks, for example 14/17. Absent until any task is scored."
    )
    revision: Short | None = Field(
        None,
        description="The newest trained result. Absent until there is one. A revision that serves it has a name of its "
        "own, serving.revision.",
    )
    approval: Short | None = Field(
        None,
        description="With serving.approval Manual: what the annotation multitask.dev/approved has to be for the new "
        "revision to get traffic. Absent: nothing waits for approval.",
    )
    serving: ServingStatus | None = Field(None, description="The servers. Absent if the installation serves nothing.")
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=12)] = Field(
        (), description="Counts of the stages, one entry for each kind."
    )
    tasks: Annotated[tuple[TaskStatus, ...], Field(max_length=128)] = Field(
        (), description="Results, one entry for each task."
    )
