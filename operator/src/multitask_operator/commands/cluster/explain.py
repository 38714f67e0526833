"""``mtm explain NAME``: the one thing that is in the way, and what to do about it."""

from __future__ import annotations

import time
from contextlib import suppress

from multitask_operator.cluster.errors import Forbidden
from multitask_operator.cluster.viewing import Viewer
from multitask_operator.commands.cluster.asking import Where, ask
from multitask_operator.commands.cluster.looking import look
from multitask_operator.commands.cluster.reasons import Explanation, Warnings, explained, silent
from multitask_operator.commands.showing import print_json, say
from multitask_operator.reconciler.raw import RawState

#: Objects whose Events are asked for, at most: the first that is stuck says it for all.
_MOST = 6


def explain(name: str, where: Where, *, as_json: bool) -> int:
    """Say why the model is where it is."""

    async def see(client: Viewer, namespace: str) -> tuple[RawState, Warnings]:
        raw = await look(client, namespace, name)
        found: dict[str, str] = {}
        with suppress(Forbidden):  # without Events it is said less exactly
            for uid in silent(raw)[:_MOST]:
                said = await client.warnings(namespace, uid)
                if said:
                    found[uid] = said[-1].get("message") or said[-1].get("note") or said[-1]["reason"]
        return raw, found

    raw, warnings = ask(where, see)
    found = explained(raw, warnings, time.time())
    if as_json:
        print_json({"name": raw.name, "namespace": raw.namespace, **found.to_json()})
    else:
        _print(raw, found)
    return 0


def _print(raw: RawState, found: Explanation) -> None:
    say(f"{raw.namespace}/{raw.name}: {found.reason}")
    for line in found.message.splitlines():
        say(f"  {line}")
    if found.next:
        say(f"next: {found.next}")
