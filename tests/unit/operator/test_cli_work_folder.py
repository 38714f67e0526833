"""Where ``mtm`` keeps the work folder of a file, and what its hints repeat."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from multitask_operator import cli
from support.graph_builders import task
from unit.operator.test_cli import resource


@pytest.fixture
def project(tmp_path):
    """A folder with a resource file and its data."""
    folder = tmp_path / "project"
    folder.mkdir()
    resource(folder)
    for split, source in task("urgency")["data"].items():
        path = folder / source["uri"]
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({"text": f"{split} {row}", "label": row}) + "\n" for row in "abc"))
    return folder


CALLED_FROM = [
    # current folder, the file as it is named there
    ("project", "model.yaml"),
    (".", "project/model.yaml"),
    ("project/urgency", "../model.yaml"),
]


@pytest.mark.parametrize(("current", "file"), CALLED_FROM)
def test_the_work_folder_is_beside_the_file(project, tmp_path, monkeypatch, capsys, current, file):
    monkeypatch.chdir(tmp_path / current)
    assert cli.invoke(["plan", file]) == 0
    assert f"; work folder {project / '.mtm/desk'}\n" in capsys.readouterr().out


def test_of_a_link_it_is_beside_the_file_itself_as_the_data_is(project, tmp_path, capsys):
    (tmp_path / "current").mkdir()
    link = tmp_path / "current/model.yaml"
    link.symlink_to(project / "model.yaml")
    assert cli.invoke(["plan", str(link)]) == 0
    assert f"; work folder {project / '.mtm/desk'}\n" in capsys.readouterr().out
    (tmp_path / "current/.mtm/desk").mkdir(parents=True)
    assert cli.invoke(["plan", str(link)]) == 2
    assert "is beside the link; add --workdir" in capsys.readouterr().err
    (project / ".mtm/desk").mkdir(parents=True)
    assert cli.invoke(["plan", str(link)]) == 0


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_work_folder_of_the_old_rule_is_not_trained_again(project, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".mtm/desk").mkdir(parents=True)
    assert cli.invoke([command, "project/model.yaml"]) == 2
    message = capsys.readouterr().err
    assert "--workdir .mtm/desk to go on with it, or --workdir project/.mtm/desk to begin anew" in message
    assert cli.invoke(["plan", "project/model.yaml", "--workdir", ".mtm/desk"]) == 0


LOCAL = """
import sys
from multitask_operator import cli
assert cli.invoke(["plan", sys.argv[1]]) == 0
print([name for name in sys.modules if name.partition(".")[0] in ("kubernetes", "multitask_kubernetes")])
"""


def test_a_plan_of_a_file_loads_no_kubernetes_client(project):
    command = [sys.executable, "-c", LOCAL, str(project / "model.yaml")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


HINTS = [
    # command, options, the hint
    ("validate", ["--claim", "data={tmp}"], "next: mtm plan {file} --claim data={tmp}"),
    (
        "plan",
        ["--workdir", "{tmp}/my work", "--claim", "data={tmp}", "--no-serve"],
        "next: mtm run {file} --workdir '{tmp}/my work' --claim data={tmp} --no-serve",
    ),
    ("plan", ["--gpu", "L4"], "next: kubectl apply -f {file} (in a cluster with that GPU)"),
]


@pytest.mark.parametrize(("command", "options", "hint"), HINTS)
def test_hints_keep_the_options_that_were_given(project, tmp_path, capsys, command, options, hint):
    def here(text):
        return text.replace("{tmp}", str(tmp_path)).replace("{file}", str(project / "model.yaml"))

    assert cli.invoke([command, str(project / "model.yaml"), *map(here, options)]) == 0
    assert here(hint) + "\n" in capsys.readouterr().out


def test_a_gpu_that_is_named_is_one_of_a_cluster_and_without_a_name_the_plan_is_of_this_machine(project, capsys):
    file = project / "model.yaml"
    file.write_text(file.read_text() + "  training: {nodes: 2, gpusPerNode: 4, sharding: Always}\n")
    found = []
    for options in ([], ["--gpu", "L4"]):
        assert cli.invoke(["plan", str(file), "--output", "json", *options]) == 0
        planned = json.loads(capsys.readouterr().out)
        found.append((planned["cost"]["device"]["gpus"], planned["ignored"]))
        assert planned["cost"]["tokensFrom"].startswith("estimated from the text of rows and prompts, 3 characters")
    settings = [f"spec.training.{name}" for name in ("nodes", "gpusPerNode", "sharding")]
    assert found == [(1, settings), (8, [])]


def test_a_plan_that_does_not_fit_the_gpu_names_the_change_and_ends_with_bad_input(project, capsys):
    file = project / "model.yaml"
    file.write_text(file.read_text().replace("tiny", "500m") + "  training: {maxLength: 1000000}\n")
    assert cli.invoke(["plan", str(file), "--gpu", "T4"]) == 2
    assert "\nnext: change spec.training.maxLength to " in capsys.readouterr().out
