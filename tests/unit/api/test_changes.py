"""Which edits of a spec change what is computed: `trains_the_same` agrees with the digests of the graph."""

from __future__ import annotations

import pytest

from multitask_api.resource.parsing import check
from multitask_api.stages.changes import trains_the_same
from support.simulated_stages import SimulatedStages, changed, document

STORED = document(storage={"uri": "s3://bucket/desk"})
WHERE_AND_WHEN = [
    ("suspend", True),
    ("serving.replicas", 3),
    ("serving.podTemplate", {"spec": {"hostNetwork": True}}),
    ("credentials", [{"secretRef": {"name": "hub"}}]),
    ("serviceAccountName", "trainers"),
    ("imagePullSecrets", [{"name": "registry"}]),
    ("storage.retain", False),
    ("storage.keepRevisions", 9),
    ("training.nodes", 2),
    ("training.gpusPerNode", 0),
    ("training.maxParallelJobs", 1),
    ("training.resources", {"limits": {"cpu": "4"}}),
    ("training.queueName", "gold"),
    ("training.podTemplate", {"metadata": {"labels": {"team": "a"}}}),
]
WHAT = [
    ("training.seed", 18),
    ("training.batchRows", 8),
    ("training.precision", "fp32"),
    ("tasks.0.prompt", "{text}?"),
    ("tasks.0.labels", ["a", "c"]),
    ("stages.baseline.seeds", 2),
    ("stages.mixture.temperature", 3.0),
    ("tuning.rank", 4),
    ("qualification.threshold", 0.9),
    ("baseModel.uri", "builtin://tiny"),
    ("pretraining", {"tasksText": True, "maxSteps": 10}),
    ("filtering.strategy", "None"),
]


def digests(source):
    stages = SimulatedStages()
    stages.run(source)
    return {node.name: node.digest for node in stages.graph(source).nodes}


@pytest.mark.parametrize(("path", "value"), WHERE_AND_WHEN, ids=[row[0] for row in WHERE_AND_WHEN])
def test_where_and_when_stages_run_changes_nothing(path, value):
    edited = changed(STORED, path, value)
    assert trains_the_same(check(STORED).spec, check(edited).spec)
    assert digests(STORED) == digests(edited)


@pytest.mark.parametrize(("path", "value"), WHAT, ids=[row[0] for row in WHAT])
def test_what_is_computed_changes_with(path, value):
    edited = changed(STORED, path, value)
    assert not trains_the_same(check(STORED).spec, check(edited).spec)
    assert digests(STORED) != digests(edited)


def test_another_storage_is_not_the_same():
    assert not trains_the_same(check(STORED).spec, check(document(storage={"uri": "s3://bucket/other"})).spec)
    assert not trains_the_same(check(STORED).spec, check(document()).spec)
