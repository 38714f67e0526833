"""``mtm explain NAME``: why a model is in its present state, and what to do next."""

from __future__ import annotations

import time

from multitask_operator.commands.cluster.diagnosis import Diagnosis, diagnose
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.session import read_model
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.reconciler.state.cluster_state import ClusterState


def explain(name: str, options: ClusterOptions, *, as_json: bool) -> int:
    """Print the diagnosis of the model ``name``."""
    now = time.time()
    cluster = read_model(options, name, now)
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
