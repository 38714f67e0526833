"""``mtm logs NAME [STAGE]``: what the newest pod of a stage printed."""

from __future__ import annotations

import sys
import time

from multitask_operator.cluster.errors import NotFound, RequestRejected
from multitask_operator.cluster.logs import LogClient
from multitask_operator.commands.cluster.pods import NoLog, log_unavailable, newest_pod, not_started, select_job
from multitask_operator.commands.cluster.session import ClusterOptions, run_with_client
from multitask_operator.commands.cluster.state_reader import read_cluster_state
from multitask_operator.objects.pod_template import CONTAINER


def logs(name: str, stage: str | None, where: ClusterOptions, *, follow: bool, tail: int | None) -> int:
    """Print the log; with ``follow`` until the pod ends. ``tail``: only the last lines."""

    async def show(client: LogClient, namespace: str) -> None:
        cluster = await read_cluster_state(client, namespace, name, time.time())
        unit = select_job(cluster, stage)
        pod = newest_pod(unit)
        if pod is None:
            raise NoLog(log_unavailable(cluster, unit))
        waits = not_started(cluster, unit, pod)
        if waits:
            raise NoLog(waits)
        sys.stderr.write(f"pod {pod['metadata']['name']} of {unit.name}\n")
        try:
            async for text in client.log(namespace, pod["metadata"]["name"], CONTAINER, follow=follow, tail=tail):
                sys.stdout.write(text)
                sys.stdout.flush()
        except NotFound as error:
            raise NoLog(log_unavailable(cluster, unit)) from error
        except RequestRejected as error:
            raise NoLog(f"there is no log: {error.message}; `mtm status {name} -n {namespace}` says more") from error

    run_with_client(where, show)
    return 0
