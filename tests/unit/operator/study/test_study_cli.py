"""`mtm study` with a wrong file: one message, before anything runs."""

from __future__ import annotations

import pytest
import yaml

from multitask_operator import cli
from support.simulated_study import model_document, study_document


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model_document()))
    return tmp_path


def grid(path, *values):
    return {"parameters": {path: {"values": list(values)}}}


WRONG = [
    (grid("stages.mixture.temperature", 1, 0.5), "arm temperature=0.5: spec.stages.mixture.temperature: must be at"),
    (grid("training.seed", 1, 2), "parameters.training.seed: arms cannot be compared that differ in it"),
    ({"model": "no.yaml"}, "no.yaml does not exist; give the path of a MultiTaskModel file"),
    ({"model": "study.yaml"}, "study.yaml is a Study; give the path of a MultiTaskModel file"),
    (grid("spec.training.warmupSteps", 1, 2), "fields stand here as they do below spec; write training.warmupSteps"),
    ({"seeds": 99}, "seeds: must be at most 16, got 99"),
    ({"arms": [{"name": "a"}]}, "study.yaml: it has one arm, and nothing to compare it with"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
@pytest.mark.parametrize("options", [[], ["--plan"]])
def test_a_wrong_file_is_refused_before_anything_runs(folder, capsys, fields, message, options):
    (folder / "study.yaml").write_text(yaml.safe_dump(study_document(**fields)))
    assert cli.invoke(["study", str(folder), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / ".mtm").exists()


def test_an_invalid_model_is_told_by_its_own_fields(folder, capsys):
    (folder / "model.yaml").write_text(yaml.safe_dump(model_document(stages={"mixture": {"temperature": 0}})))
    (folder / "study.yaml").write_text(yaml.safe_dump(study_document()))
    assert cli.invoke(["study", str(folder)]) == 2
    assert capsys.readouterr().err == "error: spec.stages.mixture.temperature: must be at least 1, got 0\n"


def test_an_empty_file_is_told_what_a_study_has(folder, capsys):
    (folder / "study.yaml").write_text("# nothing\n")
    assert cli.invoke(["study", str(folder)]) == 2
    message = (
        "study.yaml: it is empty; expected one YAML mapping with kind: Study, metadata, model, and parameters or arms"
    )
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", [{}, {"kind": "MultiTaskModel"}])
def test_a_model_in_place_of_a_study_is_told_what_is_for_it(folder, capsys, kind):
    (folder / "model.yaml").write_text(yaml.safe_dump(model_document() | kind))
    assert cli.invoke(["study", str(folder / "model.yaml")]) == 2
    error = capsys.readouterr().err
    assert (
        "model.yaml is a MultiTaskModel, not a Study; `mtm run` trains it, and a Study with model: model.yaml" in error
    )
    assert error.count("\n") == 1


def test_a_missing_file_is_one_line(folder, capsys):
    assert cli.invoke(["study", str(folder)]) == 2
    assert "study.yaml does not exist; give the path of a Study file\n" in capsys.readouterr().err


def test_a_gpu_that_the_machine_lacks_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr("multitask_operator.commands.study.run.gpu_count", lambda: 0)
    assert cli.invoke(["study", str(folder), "--device", "cuda"]) == 2
    assert "--device cuda: this machine has no NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan"])
def test_other_commands_say_which_one_is_for_a_study(folder, capsys, command):
    (folder / "study.yaml").write_text(yaml.safe_dump(study_document()))
    assert cli.invoke([command, str(folder / "study.yaml")]) == 2
    assert (
        "study.yaml is a Study, not a MultiTaskModel; `mtm study` runs it, `--plan` plans it" in capsys.readouterr().err
    )
