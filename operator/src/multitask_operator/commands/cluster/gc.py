"""``mtm gc NAME``: has the operator remove from a model's storage what nothing uses, and shows what it removed.

Only pods can read storage. So the order is an annotation of the model, as that of a rollout, and the operator, which
knows what is used, carries it out by a Job or refuses it; the answer is in the Job's ConfigMap.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

from multitask_api.cluster import GC_ANNOTATION, GarbageResult
from multitask_api.errors import MultitaskError, UserError
from multitask_kubernetes.logs import LogClient
from multitask_operator.commands.cluster.model_view import gpu_resource
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.session import annotate, read_cluster_state, run_with_client
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.formatting import size
from multitask_operator.objects.names import Owner, gc_name
from multitask_operator.reconciler import blockers
from multitask_operator.reconciler.gc.order import LIST, REMOVE, answer_of, result_of
from multitask_operator.reconciler.state.accessors import format_time, is_being_deleted
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.stage_job import StageJob, stage_jobs

SILENT_SECONDS = 60.0
"""So long the operator may say nothing about an order; it usually takes a second."""
_POLL_SECONDS = 1.0


class NotCollected(UserError):
    """The order was refused, withdrawn, or replaced by another one."""


class CollectionFailed(MultitaskError):
    """The Job failed."""


class OperatorSilent(MultitaskError):
    """No operator answers the order."""


def gc(name: str, options: ClusterOptions, *, dry_run: bool, as_json: bool) -> int:
    """Order it, wait for the answer, and print it."""

    async def work(client: LogClient, namespace: str) -> tuple[str, GarbageResult]:
        cluster = await read_cluster_state(client, namespace, name, time.time())
        if is_being_deleted(cluster.model):
            raise NotCollected(f"{namespace}/{name} is being deleted; spec.storage.retain decides what stays")
        order = f"{LIST if dry_run else REMOVE} {format_time(time.time())}"
        await annotate(client, namespace, name, GC_ANNOTATION, order)
        return namespace, await wait_for_answer(client, namespace, name, order)

    namespace, result = run_with_client(options, work)
    if as_json:
        print_json(
            {
                "namespace": namespace,
                "name": name,
                "removed": not result.dry_run,
                "artifacts": [each.name for each in result.results],
                "sizes": {each.name: each.bytes for each in result.results},
                "count": result.count,
                "files": result.files,
                "bytes": result.bytes,
                "left": result.left,
            }
        )
        return 0
    for line in lines(result):
        print_line(line)
    return 0


def lines(result: GarbageResult) -> list[str]:
    """What was removed, or would be, as people read it."""
    verb = "would remove" if result.dry_run else "removed"
    shown = [f"{verb} stages/{each.name} ({size(each.bytes)})" for each in result.results]
    if result.count > len(result.results):
        shown.append(f"{verb} {result.count - len(result.results)} smaller results")
    freed = (
        f"{size(result.bytes)} {'would be ' if result.dry_run else ''}freed" if result.files else "nothing to remove"
    )
    left = f"; {result.left} files there are of others and stay" if result.left else ""
    return [*shown, f"{freed}{left}"]


async def wait_for_answer(
    client: LogClient, namespace: str, name: str, order: str, clock: Callable[[], float] = time.monotonic
) -> GarbageResult:
    """What the Job reported. Says on standard error what the Job waits for.

    Raises NotCollected, CollectionFailed, and OperatorSilent, which withdraws the order.
    """
    heard, shown = clock(), ""
    while True:
        cluster = await read_cluster_state(client, namespace, name, time.time())
        job = job_of_order(cluster, order)
        result = result_if_ended(cluster, job, order)
        if result is not None:
            return result
        if job is not None and job.is_open:
            heard = clock()
            shown = _show(_waits_for(cluster, job), shown)
        elif clock() - heard > SILENT_SECONDS:
            await annotate(client, namespace, name, GC_ANNOTATION, None)
            raise OperatorSilent(
                f"the operator has not answered for {SILENT_SECONDS:.0f} s, and the order is withdrawn: it does not"
                f" run, cannot act on this model (`mtm explain {name} -n {namespace}` says why), or its release is"
                " older than `mtm gc NAME`"
            )
        await asyncio.sleep(_POLL_SECONDS)


def job_of_order(cluster: ClusterState, order: str) -> StageJob | None:
    """The Job that carries out ``order``, with its ConfigMap; None before the operator has made it."""
    name = gc_name(Owner.of(cluster.model), order)
    return next((job for job in stage_jobs(cluster) if job.name == name), None)


def result_if_ended(cluster: ClusterState, job: StageJob | None, order: str) -> GarbageResult | None:
    """What was removed; None while the order is carried out. Raises NotCollected and CollectionFailed."""
    result = result_of(job.configmap) if job is not None else None
    if result is not None:
        return result
    answer = answer_of(job.configmap) if job is not None else None
    if answer is not None and answer.phase == "Failed":
        raise CollectionFailed(f"{answer.message}; `mtm logs {cluster.name} gc` shows what its Job printed")
    if answer is not None:
        raise NotCollected(f"nothing more is removed: {answer.message}")
    standing = cluster.annotations.get(GC_ANNOTATION)
    if standing != order:
        raise NotCollected("the order was withdrawn" if standing is None else f"another order came: {standing}")
    return None


def _waits_for(cluster: ClusterState, job: StageJob) -> str:
    blocker = blockers.job_blocked(job, gpu_resource(cluster), cluster.warnings)
    return f"Job {job.name} is at work" if blocker is None else f"Job {job.name} waits: {blocker.message}"


def _show(line: str, shown: str) -> str:
    if line != shown:
        sys.stderr.write(f"{line}\n")
    return line
