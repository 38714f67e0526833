"""The ledger stage on real engines: bytes are the files', figures are measured, leftovers are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask_api.stage_io.ledger import LedgerResult
from multitask_api.stage_io.parameters import LedgerParameters
from multitask_trainer.stages import ledger
from support.evaluation_fixtures import EvaluationSuite, exported_suite


def weights(folder: str | Path) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))


def run(suite: EvaluationSuite) -> LedgerResult:
    stage = suite.stage("ledger", "ledger", LedgerParameters(load_per_task=1.0))
    outcome = ledger.work(stage)
    return LedgerResult.model_validate(outcome.result.to_json())


@pytest.mark.parametrize("kind", ["Full", "LoRA"])
def test_ledger(tmp_path, kind):
    suite = exported_suite(tmp_path, kind)
    measured = run(suite)
    exported = Path(suite.addresses["export"]) / "bundle"
    assert measured.multi_task.bytes == weights(exported)
    intent, urgency = (Path(suite.addresses[f"baseline/{task}/seed-1"]) / "served" for task in ("intent", "urgency"))
    base = weights(suite.addresses["base"]) if kind == "LoRA" else 0
    assert measured.single_task.bytes == 2 * base + weights(intent) + weights(urgency)
    assert measured.single_task.models == 2
    assert measured.leftover_models == 1
    assert set(measured.single_task.tasks) == {"intent", "urgency"}
    assert all(rate > 0 for rate in measured.single_task.tasks.values())
    assert measured.single_task.requests_per_second == pytest.approx(sum(measured.single_task.tasks.values()))
    assert measured.multi_task.requests_per_second > 0
    assert (measured.single_task.replicas, measured.multi_task.replicas) == (2, 1)
    assert measured.reduction.replicas == 0.5
    assert measured.reduction.bytes == pytest.approx(1 - measured.multi_task.bytes / measured.single_task.bytes)
    # 3 s of pre-training; 2 s of each run: one of intent, five of urgency, one mixture.
    assert measured.single_task.stage_seconds == {"base": 3.0, "baseline": 2.0 + 2.0}
    assert measured.multi_task.stage_seconds == {
        "base": 3.0,
        "baseline": 2.0 + 5 * 2.0,
        "high-resource": 0,
        "mixture": 2.0,
    }
    assert (measured.single_task.training_seconds, measured.multi_task.training_seconds) == (7.0, 17.0)
    assert 100e6 < measured.runtime_bytes < 4e9


def test_nothing_exported_nothing_measured(tmp_path):
    measured = run(exported_suite(tmp_path, "Full", promote="AllQualified"))
    assert (measured.single_task.models, measured.multi_task.models, measured.reduction.replicas) == (0, 0, 0.0)
