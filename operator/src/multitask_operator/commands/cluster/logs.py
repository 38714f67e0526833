"""``mtm logs NAME [STAGE]``: what the newest pod of a stage printed."""

from __future__ import annotations

import sys
import time

from multitask_operator.cluster.errors import NotFound, Refused
from multitask_operator.cluster.viewing import Viewer
from multitask_operator.commands.cluster.asking import Where, ask
from multitask_operator.commands.cluster.looking import look
from multitask_operator.commands.cluster.pods import NoLog, chosen, gone, newest_pod, not_started
from multitask_operator.objects.protected import CONTAINER


def logs(name: str, stage: str | None, where: Where, *, follow: bool, tail: int | None) -> int:
    """Print the log; with ``follow`` until the pod ends. ``tail``: only the last lines."""

    async def show(client: Viewer, namespace: str) -> None:
        raw = await look(client, namespace, name, time.time())
        unit = chosen(raw, stage)
        pod = newest_pod(unit)
        if pod is None:
            raise NoLog(gone(raw, unit))
        waits = not_started(raw, unit, pod)
        if waits:
            raise NoLog(waits)
        sys.stderr.write(f"pod {pod['metadata']['name']} of {unit.name}\n")
        try:
            async for text in client.log(namespace, pod["metadata"]["name"], CONTAINER, follow=follow, tail=tail):
                sys.stdout.write(text)
                sys.stdout.flush()
        except NotFound as error:
            raise NoLog(gone(raw, unit)) from error
        except Refused as error:
            raise NoLog(f"there is no log: {error.message}; `mtm status {name} -n {namespace}` says more") from error

    ask(where, show)
    return 0
