"""``mtm explain NAME``: the one thing that is in the way, and what to do about it."""

from __future__ import annotations

import time

from multitask_operator.commands.cluster.asking import Where, ask
from multitask_operator.commands.cluster.looking import look
from multitask_operator.commands.cluster.reasons import Explanation, explained
from multitask_operator.commands.showing import print_json, say
from multitask_operator.reconciler.raw import RawState


def explain(name: str, where: Where, *, as_json: bool) -> int:
    """Say why the model is where it is."""
    now = time.time()
    raw = ask(where, lambda client, namespace: look(client, namespace, name, now))
    found = explained(raw, now)
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
