"""How many Jobs are started beside those that run."""

from __future__ import annotations

import pytest

from multitask_api.resource.tuning import Tuning
from multitask_api.stages import Node, NodeState
from multitask_operator.planner import StartStage
from multitask_operator.planner.joint import BaselineWork, joint_groups, trains_together
from multitask_operator.reconciler.state.stage_job import StageJob
from multitask_operator.reconciler.training.scheduling import JobBatch, fit_parallelism, job_batches
from support.graph_builders import all_done, finish, graph_of, model, task

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


def starts(kind, count):
    nodes = [Node(f"{kind}/{number}", kind, NodeState.READY, digest=str(number)) for number in range(count)]
    return [StartStage(node, 1, 1) for node in nodes]


# the sentence, Jobs of baselines that can start if these train together, what can start, the stages of each Job
BATCHES = [
    ("a Job for each baseline", None, [*starts("baseline", 3)], [1, 1, 1]),
    ("one for all", 1, [*starts("baseline", 3)], [3]),
    ("as few as can be, of equal sizes", 1, [*starts("baseline", 9)], [5, 4]),
    ("as many as can start", 3, [*starts("baseline", 8)], [3, 3, 2]),
    ("without a place all wait, and their Jobs are as large as can be", -1, [*starts("baseline", 9)], [5, 4]),
    ("a mixture has its own", 1, [*starts("baseline", 2), *starts("mixture", 2)], [2, 1, 1]),
    ("what is more urgent has its place", 3, [*starts("mixture", 2), *starts("baseline", 4)], [1, 1, 4]),
    ("what is less urgent takes none", 2, [*starts("baseline", 4), *starts("export", 1)], [2, 2, 1]),
    ("data is prepared in one, however many tasks there are", 4, [*starts("prepare", 20)], [20]),
]


@pytest.mark.parametrize(("sentence", "places", "ready", "sizes"), BATCHES, ids=[row[0] for row in BATCHES])
def test_jobs_of_several_stages(sentence, places, ready, sizes):
    batches = job_batches(ready, None, (), together={} if places is None else {"baseline": places})
    assert [len(batch.nodes) for batch in batches] == sizes
    assert sorted(node.name for batch in batches for node in batch.nodes) == sorted(start.node.name for start in ready)


@pytest.mark.parametrize(
    ("tuning", "training", "expected"),
    [
        (Tuning(method="LoRA"), {}, True),
        (Tuning(method="CGCLoRA"), {}, True),  # its baselines are plain LoRA
        (Tuning(method="LoRA", dropout=0.1), {}, False),
        (Tuning(method="Full"), {}, False),
        (Tuning(method="LoRA"), {"report_to": ("MLflow",)}, False),
        (Tuning(method="LoRA"), {"sharding": "Always"}, False),
    ],
)
def test_which_baselines_can_train_together(tuning, training, expected):
    spec = model().spec
    spec = spec.model_copy(update={"tuning": tuning, "training": spec.training.model_copy(update=training)})
    assert trains_together(spec, "baseline") == expected
    assert not trains_together(spec, "mixture")


@pytest.mark.parametrize(
    ("count", "places", "sizes"),
    [
        (17, 1, [6, 6, 5]),
        (8, 1, [8]),
        (8, 4, [2, 2, 2, 2]),
        (5, 4, [2, 1, 1, 1]),  # groups of two would leave one place idle
        (2, 4, [1, 1]),
        (17, 4, [5, 4, 4, 4]),
        (8, 0, [8]),
        (0, 4, []),
    ],
)
def test_groups_are_of_equal_sizes_and_leave_no_place_idle(count, places, sizes):
    groups = joint_groups(range(count), places)
    assert [len(group) for group in groups] == sizes
    assert [item for group in groups for item in group] == list(range(count))


ADAPTERS = model(
    task("urgency"),
    task("intent"),
    task("reply", "Generation", baseline={"score": 0.9}),
    tuning={"method": "LoRA"},
    stages={"baseline": {"seeds": 2}},
)
#: The sentence, the model, baselines that are cached, GPUs, what the plan says.
WORK = [
    ("on a GPU together", ADAPTERS, 0, 1, "4 to train, 1 declared, together in 1 process of 4 on one base"),
    ("on two GPUs", ADAPTERS, 0, 2, "4 to train, 1 declared, together in 2 processes of 2 on one base"),
    ("on a CPU side by side", ADAPTERS, 0, 0, "4 to train, 1 declared, each in a process of its own"),
    ("what is cached is not trained", ADAPTERS, 3, 1, "1 to train, 3 cached, 1 declared"),
    ("whole models", model(), 0, 1, "4 to train, each in a process of its own"),
    ("none", model(stages={"baseline": {"enabled": False}}), 0, 1, ""),
]


@pytest.mark.parametrize(("sentence", "resource", "cached", "gpus", "text"), WORK, ids=[row[0] for row in WORK])
def test_what_the_baselines_cost(sentence, resource, cached, gpus, text):
    manifests = all_done(resource, until="baseline")
    for node in graph_of(resource, manifests).of_kind("baseline")[:cached]:
        manifests = finish(resource, manifests, node)
    assert str(BaselineWork.of(resource.spec, graph_of(resource, manifests), gpus)) == text
