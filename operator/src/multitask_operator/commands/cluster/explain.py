"""``mtm explain NAME``: the one thing that is in the way, and what to do about it."""

from __future__ import annotations

import time

from multitask_operator.commands.cluster.diagnosis import Diagnosis, diagnose
from multitask_operator.commands.cluster.session import ClusterOptions, run_with_client
from multitask_operator.commands.cluster.state_reader import read_cluster_state
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.reconciler.state.cluster_state import ClusterState


def explain(name: str, where: ClusterOptions, *, as_json: bool) -> int:
    """Say why the model is where it is."""
    now = time.time()
    cluster = run_with_client(where, lambda client, namespace: read_cluster_state(client, namespace, name, now))
    diagnosis = diagnose(cluster, now)
    if as_json:
        print_json({"name": cluster.name, "namespace": cluster.namespace, **diagnosis.to_json()})
    else:
        _print(cluster, diagnosis)
    return 0


def _print(cluster: ClusterState, diagnosis: Diagnosis) -> None:
    print_line(f"{cluster.namespace}/{cluster.name}: {diagnosis.reason}")
    for line in diagnosis.message.splitlines():
        print_line(f"  {line}")
    if diagnosis.next:
        print_line(f"next: {diagnosis.next}")
