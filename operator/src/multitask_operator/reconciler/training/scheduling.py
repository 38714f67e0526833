"""Which Jobs are started next: the plan's starts in batches, and no more at once than may run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from multitask_api.cluster import TRAINING_KINDS, qualified_name
from multitask_api.stages import ArtifactKey, Graph, Node
from multitask_operator.objects.orders import stage_order
from multitask_operator.objects.resources import gpus, pods_per_job
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.planner import StartStage
from multitask_operator.planner.joint import joint_groups, trains_together
from multitask_operator.reconciler.pvcs import single_node_claims
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.stage_job import Phase, StageJob

#: Stages of these kinds that are ready share a Job: they take seconds, less than the start of a pod.
SHARED_JOB_KINDS = frozenset({"prepare"})


@dataclass(frozen=True)
class JobBatch:
    """The stages of one Job that is to be started, in the order in which they run."""

    kind: str
    nodes: tuple[Node, ...]


def needs_resolve_job(state: ModelState) -> bool:
    """Whether this generation's resolve Job has to be created; a suspended model waits until it is resumed."""
    job = state.resolve_job
    is_missing = job is None or (job.job is None and not job.has_failed)
    return is_missing and not state.is_resolved and not state.model.spec.suspend


def next_batches(state: ModelState) -> list[JobBatch]:
    """The Jobs to start now; none before this generation is resolved."""
    if not state.is_resolved:
        return []
    alone = tried_alone(state)
    # A Job that has ended or lost its ConfigMap has to be deleted before one of its name can be created, and one that
    # failed for good is not created again.
    blocking = [job for job in state.stage_jobs if job.phase not in (Phase.DONE, Phase.JOB_MISSING)]
    busy = {key for job in blocking for key in job.keys if not (job.failed_together and key in alone)}
    starts = [start for start in state.plan.starts if start.key not in busy]
    spec, count = state.model.spec, len(_running(state.stage_jobs))
    together = {kind: places - count for kind, places in joint_places(state).items()}
    return fit_parallelism(
        spec.training.max_parallel_jobs,
        job_batches(starts, state.plan.graph, state.stage_jobs, together=together, alone=alone),
        state.stage_jobs,
        exclusive_claims=lambda kind: single_node_claims(spec, kind, state.cluster.pvcs),
    )


def job_spec(state: ModelState, batch: JobBatch) -> StageJobSpec:
    """The Job that runs ``batch``."""
    name = qualified_name(state.owner.namespace, state.owner.name)
    orders = [stage_order(name, state.model.spec, state.plan.graph, node) for node in batch.nodes]
    return StageJobSpec.of_stages(state.owner, state.cluster.generation, orders, state.resolve_spec.name)


def joint_places(state: ModelState) -> dict[str, int]:
    """The kinds of training of which several share a Job, one process that trains them on one GPU; and how many such
    Jobs may be at work at once, whatever else is.

    None in a run that an older release began: its image may do what a Job has one after the other. The cluster's free
    GPUs are not known; ``maxParallelJobs`` says how many Jobs it has room for.
    """
    spec, pvcs = state.model.spec, state.cluster.pvcs
    if not state.run.is_of_this_release:
        return {}
    return {
        kind: 1 if single_node_claims(spec, kind, pvcs) else spec.training.max_parallel_jobs
        for kind in TRAINING_KINDS
        if trains_together(spec, kind) and gpus(spec, kind) == 1 and pods_per_job(spec, kind) == 1
    }


def tried_alone(state: ModelState) -> frozenset[ArtifactKey]:
    """The stages that get a Job each: a Job that trained them together failed, and why may be another one's fault.

    None of a Job that is to be deleted, and its stages with it to be trained together again.
    """
    failed = [job for job in state.stage_jobs if job.failed_together and not state.is_older(job)]
    return frozenset(key for job in failed for key in job.open_keys)


def job_batches(
    starts: Sequence[StartStage],
    graph: Graph,
    stage_jobs: Sequence[StageJob],
    together: Mapping[str, int],
    alone: Collection[ArtifactKey] = (),
) -> list[JobBatch]:
    """``starts`` as Jobs: a missing Job whose stages are all still wanted is created again as it was.

    ``together``: kinds of which one Job trains several stages in one process, but for the stages in ``alone``; and how
    many Jobs can start now.
    """
    order = {start.node.name: position for position, start in enumerate(starts)}

    def position(nodes: Sequence[Node]) -> int:
        return min(order.get(node.name, len(order)) for node in nodes)

    batches: list[JobBatch] = []
    open_nodes = {start.key: start.node for start in starts}
    for job in stage_jobs:
        if job.phase is Phase.JOB_MISSING and any(key in open_nodes for key in job.keys) and is_wanted(job, graph):
            batches.append(JobBatch(job.kind, tuple(graph[stage] for stage, _ in job.keys)))
            for key in job.keys:
                open_nodes.pop(key, None)
    shared: dict[str, list[Node]] = {}
    for key, node in open_nodes.items():
        if node.kind in SHARED_JOB_KINDS or (node.kind in together and key not in alone):
            shared.setdefault(node.kind, []).append(node)
        else:
            batches.append(JobBatch(node.kind, (node,)))
    for kind, nodes in shared.items():
        groups = [tuple(nodes)]
        if kind not in SHARED_JOB_KINDS:
            more_urgent = sum(position(batch.nodes) < position(nodes) for batch in batches)
            groups = joint_groups(nodes, together[kind] - more_urgent)
        batches += [JobBatch(kind, group) for group in groups]
    return sorted(batches, key=lambda batch: position(batch.nodes))


def fit_parallelism(
    limit: int,
    batches: Sequence[JobBatch],
    stage_jobs: Sequence[StageJob],
    exclusive_claims: Callable[[str], Collection[str]],
) -> list[JobBatch]:
    """The first of ``batches`` that fit beside the Jobs that run.

    ``exclusive_claims``: a kind → the claims that its Jobs mount and only one Job at a time may.
    """
    running = _running(stage_jobs)
    in_use = {claim for job in running for claim in exclusive_claims(job.kind)}
    fitting: list[JobBatch] = []
    for batch in batches:
        if len(running) + len(fitting) < limit and in_use.isdisjoint(exclusive_claims(batch.kind)):
            fitting.append(batch)
            in_use.update(exclusive_claims(batch.kind))
    return fitting


def _running(stage_jobs: Sequence[StageJob]) -> list[StageJob]:
    return [job for job in stage_jobs if job.phase in (Phase.RUNNING, Phase.CONFIGMAP_MISSING) and not job.is_finished]


def is_wanted(job: StageJob, graph: Graph) -> bool:
    """Whether every stage of the Job is in the graph with the same digest."""
    return bool(job.keys) and all(stage in graph and graph[stage].digest == digest for stage, digest in job.keys)
