"""``mtm logs NAME [STAGE]``: the log of the newest pod of a stage."""

from __future__ import annotations

import sys
import time

from multitask_kubernetes.errors import NotFound, RequestRejected
from multitask_kubernetes.logs import LogClient
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.pods import NoLog, log_unavailable, newest_pod, not_started, select_job
from multitask_operator.commands.cluster.session import read_cluster_state, run_with_client
from multitask_operator.objects.user_pod_template import CONTAINER


def logs(name: str, stage: str | None, options: ClusterOptions, *, follow: bool, tail: int | None) -> int:
    """Print the log; with ``follow`` until the pod ends. ``tail``: only the last lines."""

    async def show(client: LogClient, namespace: str) -> None:
        cluster = await read_cluster_state(client, namespace, name, time.time())
        stage_job = select_job(cluster, stage)
        pod = newest_pod(stage_job)
        if pod is None:
            raise NoLog(log_unavailable(cluster, stage_job))
        reason = not_started(cluster, stage_job, pod)
        if reason:
            raise NoLog(reason)
        sys.stderr.write(f"pod {pod['metadata']['name']} of {stage_job.name}\n")
        try:
            async for text in client.log(namespace, pod["metadata"]["name"], CONTAINER, follow=follow, tail=tail):
                sys.stdout.write(text)
                sys.stdout.flush()
        except NotFound as error:
            raise NoLog(log_unavailable(cluster, stage_job)) from error
        except RequestRejected as error:
            raise NoLog(f"there is no log: {error.message}; `mtm status {name} -n {namespace}` says more") from error

    run_with_client(options, show)
    return 0
