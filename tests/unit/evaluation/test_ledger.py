"""The ledger's arithmetic, and its load."""

from __future__ import annotations

import pytest

from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.ledger import (
    multi_task_side,
    multi_task_training,
    reduction,
    replicas,
    single_task_side,
    single_task_training,
)
from multitask_trainer.evaluation.throughput import BATCH, RequestStream

TABLE = [
    # load, rate, replicas
    (10, 100, 1),
    (10, 10, 1),
    (10.1, 10, 2),
    (10, 3, 4),
    (0.1, 100, 1),
    (10, 0, 0),
]


@pytest.mark.parametrize(("load", "rate", "expected"), TABLE)
def test_replicas(load, rate, expected):
    assert replicas(load, rate) == expected


def test_n_small_loads_need_n_servers_and_one_server_takes_them_together():
    single = single_task_side({"a": 100.0, "b": 50.0, "c": 8.0}, {"a": 400, "b": 400, "c": 400}, {}, load=10)
    multi = multi_task_side(60.0, {"mixture": 400, "baseline.c": 400}, {}, load=10, tasks=3)
    assert (single.models, single.bytes, single.requests_per_second, single.replicas) == (3, 1200, 158.0, 1 + 1 + 2)
    assert (multi.models, multi.bytes, multi.replicas) == (2, 800, 1)
    saved = reduction(single, multi)
    assert (saved.bytes, saved.replicas) == (pytest.approx(1 / 3), 0.75)


def test_a_server_that_costs_more_is_a_negative_reduction():
    single = single_task_side({"a": 100.0}, {"a": 400}, {}, load=10)
    multi = multi_task_side(4.0, {"a": 400, "baseline.a": 400}, {}, load=10, tasks=1)
    assert (reduction(single, multi).bytes, reduction(single, multi).replicas) == (-1.0, -2.0)
    nothing = single_task_side({}, {}, {}, load=10)
    assert reduction(nothing, multi_task_side(0.0, {}, {}, 10, 0)).bytes == 0.0


def test_three_stages_cost_all_their_yardsticks_as_well():
    runs = {"a": [10.0, 20.0], "b": [4.0], "declared": []}
    single = single_task_training(5.0, runs)
    multi = multi_task_training(5.0, runs, {"high-resource": [2.0], "mixture": [8.0, 1.0]})
    assert single == {"base": 5.0, "baseline": 15.0 + 4.0}
    assert multi == {"base": 5.0, "baseline": 30.0 + 4.0, "high-resource": 2.0, "mixture": 9.0}
    assert single_task_side({}, {}, single, load=1).training_seconds == 24.0
    assert multi_task_side(0.0, {}, multi, load=1, tasks=0).training_seconds == 50.0


def test_every_task_has_the_same_share_of_the_load():
    load = RequestStream({"big": [Row({"text": str(n)}) for n in range(60)], "small": [Row({"text": "x"})]})
    requests = [request for _ in range(4) for request in load.next_batch()]
    assert len(requests) == 4 * BATCH
    assert sum(request.task == "small" for request in requests) == 2 * BATCH
