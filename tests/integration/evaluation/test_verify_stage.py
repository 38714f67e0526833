"""The verify stage: a real Triton and a real gateway serve the export, and a swapped model is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask_api.stage_io.manifest import MANIFEST
from multitask_api.stage_io.parameters import VerifyParameters
from multitask_api.stage_io.results import VerifyResult
from multitask_trainer.errors import ArtifactError, StageError
from multitask_trainer.stages import verify
from multitask_trainer.storage.artifacts import read_manifest
from multitask_trainer.storage.files import file_entries, write_atomically
from support.evaluation_fixtures import INTENT, TEXTS, exported_suite, make_servable


def run(suite):
    stage = suite.stage("verify", "verify", VerifyParameters(tasks=tuple(suite.tasks), precision="fp32"))
    return VerifyResult.model_validate(verify.work(stage).result.to_json())


@pytest.mark.parametrize("kind", ["Full", "LoRA"])
def test_served_is_measured_for_mixture_and_baseline(tmp_path, kind):
    verified = run(exported_suite(tmp_path, kind))
    assert set(verified.tasks) == {"intent", "urgency"}
    assert verified.compared == 2 * len(TEXTS)
    assert verified.equal + verified.near_ties == verified.compared
    assert verified.different == 0


def test_texts_are_compared_too(tmp_path):
    verified = run(exported_suite(tmp_path, "Full", declared={"reply": 0.9}))
    assert verified.tasks["reply"].compared == len(TEXTS)
    assert verified.different == 0


def test_other_weights_than_those_measured_fail_with_examples(tmp_path):
    suite = exported_suite(tmp_path, "Full")
    base = Path(suite.addresses["base"]) / "model"
    other = make_servable(tmp_path / "other", base, seed=9) / "model" / "model.safetensors"
    export = Path(suite.addresses["export"])
    other.replace(export / "bundle/models/classification/model.safetensors")
    with pytest.raises(ArtifactError, match="has other bytes than its manifest says"):
        run(suite)
    manifest = read_manifest(str(export))
    (export / MANIFEST).unlink()
    made_so = manifest.model_copy(update={"files": file_entries(export)})  # an export that was wrong from the beginning
    write_atomically(export / MANIFEST, made_so.model_dump_json(by_alias=True))
    with pytest.raises(StageError, match=r"served answers are not those of the evaluation") as caught:
        run(suite)
    assert "intent: evaluated '" in str(caught.value)
    assert any(f"served '{label}'" in str(caught.value) for label in INTENT.labels)


def test_nothing_exported_nothing_to_compare(tmp_path):
    verified = run(exported_suite(tmp_path, "Full", promote="AllQualified"))
    assert (verified.compared, verified.different, verified.tasks) == (0, 0, {})
