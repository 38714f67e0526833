"""How many Jobs are started beside those that run."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.state.stage_job import StageJob
from multitask_operator.reconciler.training.scheduling import JobBatch, fit_parallelism

EXCLUSIVE = {"prepare": {"data"}, "base": {"chats"}, "baseline": set()}


def running(kind, *, ended=False):
    job = {"metadata": {"name": "j"}, "status": {"conditions": [{"type": "Complete", "status": "True"}] * ended}}
    configmap = {"metadata": {"name": "j"}}
    return StageJob("j", kind, (("s", "d"),), configmap, job)


# the sentence, the limit, kinds that could start, Jobs that exist, kinds that do start
CHOICES = [
    ("as many as may run", 2, ["baseline"] * 3, [], ["baseline"] * 2),
    ("those that run count", 2, ["baseline"] * 3, [running("base")], ["baseline"]),
    ("one that has ended does not", 2, ["baseline"] * 3, [running("base", ended=True)], ["baseline"] * 2),
    ("more may run than before the limit was lowered", 1, ["baseline"], [running("base"), running("base")], []),
    ("one of two that share a claim of one node", 4, ["prepare", "prepare"], [], ["prepare"]),
    ("none beside one that has it", 4, ["prepare", "baseline"], [running("prepare")], ["baseline"]),
    ("two with a claim each", 4, ["prepare", "base"], [], ["prepare", "base"]),
    ("what waits for a claim takes nobody's place", 2, ["base", "base", "baseline"], [], ["base", "baseline"]),
]


@pytest.mark.parametrize(("sentence", "limit", "kinds", "jobs", "expected"), CHOICES, ids=[row[0] for row in CHOICES])
def test_what_starts(sentence, limit, kinds, jobs, expected):
    batches = fit_parallelism(
        limit, [JobBatch(kind, ()) for kind in kinds], jobs, exclusive_claims=EXCLUSIVE.__getitem__
    )
    assert [batch.kind for batch in batches] == expected
