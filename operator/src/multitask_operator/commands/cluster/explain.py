"""``mtm explain NAME``: the one thing that is in the way, and what to do about it."""

from __future__ import annotations

import time

from multitask_operator.commands.cluster.diagnosis import Diagnosis, diagnose
from multitask_operator.commands.cluster.model_state_reader import read_model_state
from multitask_operator.commands.cluster.session import ClusterOptions, run_with_client
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.reconciler.cluster_state import ClusterState


def explain(name: str, where: ClusterOptions, *, as_json: bool) -> int:
    """Say why the model is where it is."""
    now = time.time()
    raw = run_with_client(where, lambda client, namespace: read_model_state(client, namespace, name, now))
    found = diagnose(raw, now)
    if as_json:
        print_json({"name": raw.name, "namespace": raw.namespace, **found.to_json()})
    else:
        _print(raw, found)
    return 0


def _print(raw: ClusterState, found: Diagnosis) -> None:
    print_line(f"{raw.namespace}/{raw.name}: {found.reason}")
    for line in found.message.splitlines():
        print_line(f"  {line}")
    if found.next:
        print_line(f"next: {found.next}")
