"""The JSON keys of every record that is stored or passes between programs, as in version 0.1.0."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from multitask_api.bundle import Bundle
from multitask_api.cluster import (
    CleanUpOrder,
    CleanUpResult,
    GarbageAnswer,
    GarbageOrder,
    GarbageResult,
    Orders,
    ResolveOrder,
)
from multitask_api.data_check import DataReport
from multitask_api.report import Report
from multitask_api.resource import MultiTaskModel
from multitask_api.routes import TaskRoute
from multitask_api.serving_io.revision import Revision
from multitask_api.serving_io.verify import RevisionReport, VerifyOrder
from multitask_api.stage_io import affinity, ledger, parameters, results
from multitask_api.stage_io.manifest import Manifest, Resolved, StageFailure, StageProgress
from multitask_operator.local.workdir import PlannedModel
from multitask_operator.study.report import StudyReport
from multitask_operator.study.spec import Study
from support.contract_fixtures import read_fixture
from support.record_shapes import shape

RECORDS: dict[str, dict[str, type[BaseModel]]] = {
    "resource": {"MultiTaskModel": MultiTaskModel, "TaskRoute": TaskRoute},
    "files": {
        "orders.json": Orders,
        "resolve.json": ResolveOrder,
        "clean-up.json": CleanUpOrder,
        "cleaned.json": CleanUpResult,
        "gc.json": GarbageOrder,
        "collected.json": GarbageResult,
        "answer.json": GarbageAnswer,
        "progress.json": StageProgress,
        "failure.json": StageFailure,
        "resolved.json": Resolved,
        "manifest.json": Manifest,
        "report.json": Report,
        "bundle.json": Bundle,
        "models/<name>.json": PlannedModel,
    },
    "parameters": {
        "prepare": parameters.PrepareParameters,
        "base": parameters.BaseParameters,
        "training": parameters.TrainParameters,
        "gradients": parameters.GradientsParameters,
        "affinity": parameters.AffinityParameters,
        "check": parameters.CheckParameters,
        "filter": parameters.FilterParameters,
        "bundle": parameters.BundleParameters,
        "evaluate": parameters.EvaluateParameters,
        "export": parameters.ExportParameters,
        "verify": parameters.VerifyParameters,
        "ledger": parameters.LedgerParameters,
    },
    "results": {
        "prepare": results.PrepareResult,
        "base": results.BaseResult,
        "training": results.TrainResult,
        "gradients": affinity.GradientsResult,
        "affinity": affinity.AffinityResult,
        "check": affinity.CheckResult,
        "filter": results.FilterResult,
        "bundle": results.BundleResult,
        "evaluate": results.EvaluateResult,
        "export": results.ExportResult,
        "verify": results.VerifyResult,
        "ledger": ledger.LedgerResult,
    },
    "serving": {"revision.json": Revision, "verify.json": VerifyOrder, "verified.json": RevisionReport},
    "output": {"mtm validate": DataReport},
    "study": {"Study": Study, "study.json": StudyReport},
}
CASES = [(group, name) for group, records in RECORDS.items() for name in records]


@pytest.mark.parametrize(("group", "name"), CASES)
def test_keys_of(group: str, name: str):
    assert shape(RECORDS[group][name]) == read_fixture("records")[group][name]


def test_every_record_of_the_fixture_is_compared():
    fixture = read_fixture("records")
    assert sorted((group, name) for group, records in fixture.items() for name in records) == sorted(CASES)
