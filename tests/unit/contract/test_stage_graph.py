"""The same spec and the same results give the digests, parameters and inputs of version 0.1.0: nothing is run again."""

from __future__ import annotations

import pytest

from multitask_api.stages import NodeState
from multitask_api.stages.digests import digest
from multitask_api.stages.versions import UNRECORDED_VERSIONS
from support.contract_fixtures import SAMPLES, read_fixture, sample_graph


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_stage_has_its_digest_parameters_and_inputs(sample: str):
    expected = read_fixture(f"{sample}-graph")["stages"]
    graph = sample_graph(sample)

    assert [node.name for node in graph.nodes] == list(expected)
    for node in graph.nodes:
        stage = expected[node.name]
        assert (node.kind, node.version) == (stage["kind"], stage["version"])
        if stage.get("state") == "skipped":
            assert node.state is NodeState.SKIPPED
            continue
        assert node.parameters is not None
        assert node.parameters.to_json() == stage["parameters"], node.name
        assert dict(node.read_outputs or {}) == stage["readOutputs"], node.name
        assert list(node.needs) == stage["needs"], node.name
        assert node.digest == stage["digest"], node.name


@pytest.mark.parametrize("sample", SAMPLES)
def test_manifests_of_an_older_version_finish_the_graph(sample: str):
    assert sample_graph(sample).finished
    assert not sample_graph(sample, without=("export",)).finished


def test_digests_of_plain_values():
    assert digest({"b": [1, 2.0, None, "ü"], "a": {"x": True, "none": None}}) == "70711de773c5"
    assert digest(["uid", 3, ""], 8) == "ccf6cc65"


def test_runs_that_recorded_no_versions_keep_those_of_the_last_release_before():
    assert UNRECORDED_VERSIONS == {
        "prepare": 2,
        "base": 2,
        "baseline": 3,
        "filter": 1,
        "high-resource": 3,
        "mixture": 3,
        "bundle": 1,
        "evaluate": 3,
        "export": 1,
        "verify": 1,
        "ledger": 2,
    }
