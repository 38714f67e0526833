"""Output and exit status of ``mtm``, for wrong input and for existing work folders."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time

import pytest
import yaml

from multitask_api.stage_io.manifest import StageFailure
from multitask_operator import cli
from multitask_operator.cli.errors import run_reporting_errors
from multitask_operator.commands import export, serve
from multitask_operator.commands.serve import exported
from multitask_operator.local.exports import exported_results
from multitask_operator.local.model_file import device, ignored_fields
from multitask_operator.local.promotion import Published
from multitask_operator.local.workdir import write_atomically
from multitask_operator.report.build import build_report
from support.graph_builders import all_done, graph_of, model, task
from unit.operator.test_workdir import DESK, filled


def resource(tmp_path, **spec):
    document = {"apiVersion": "multitask.dev/v1alpha1", "kind": "MultiTaskModel", "metadata": {"name": "desk"}}
    tasks = spec.pop("tasks", [task("urgency")])
    file = tmp_path / "model.yaml"
    file.write_text(
        yaml.safe_dump({**document, "spec": {"baseModel": {"uri": "builtin://tiny"}, "tasks": tasks, **spec}})
    )
    return str(file)


def without(entry, *names):
    return {name: value for name, value in entry.items() if name not in names}


COMMANDS = [
    # arguments, exit status, part of standard error
    (["validate"], 2, "Missing argument 'FILE'; `mtm validate --help` shows how"),
    (["trian", "x"], 2, "No such command 'trian'"),
    (["run", "{tmp}/nope.yaml"], 2, "nope.yaml does not exist; give the path of a MultiTaskModel file"),
    (["plan", "{tmp}"], 2, "model.yaml does not exist; give the path of a MultiTaskModel file"),
    (["run", "{tmp}"], 2, "model.yaml does not exist; give the path of a MultiTaskModel file"),
    (["run", "x.yaml", "--output", "xml"], 2, "'xml' is not one of 'text', 'json'"),
    (["run", "x.yaml", "--claim", "desk"], 2, "--claim desk: write NAME=DIR; `mtm run --help` shows how"),
    (["validate", "x.yaml", "--claim", "desk={tmp}/nowhere"], 2, "nowhere is not a folder"),
    (["plan", "desk", "-n", "team", "--claim", "desk={tmp}"], 2, "--claim applies only to a run on this machine"),
    (["serve", "{tmp}/nowhere"], 2, "nowhere does not exist; `mtm run FILE --workdir"),
    (["serve", "{tmp}"], 2, "is not a work folder of mtm"),
    (["export", "{tmp}", "--to", "peft", "--out", "{tmp}/out"], 2, "is not a work folder of mtm"),
    (["export", "{tmp}", "--to", "tgi", "--out", "{tmp}/out"], 2, "'tgi' is not one of 'peft', 'vllm', 'triton-vllm'"),
    (["report", "{tmp}/nowhere"], 2, "nowhere does not exist"),
    (["gc", "{tmp}/nowhere"], 2, "nowhere does not exist"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), COMMANDS)
def test_wrong_arguments_get_one_line(tmp_path, capsys, arguments, status, message):
    assert cli.invoke([part.replace("{tmp}", str(tmp_path)) for part in arguments]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def test_a_folder_stands_for_the_model_file_in_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("multitask_operator.commands.run.gpu_count", lambda: 0)
    file = resource(tmp_path)
    assert cli.invoke(["run", str(tmp_path), "--device", "cuda"]) == 2
    in_folder = capsys.readouterr().err
    assert cli.invoke(["run", file, "--device", "cuda"]) == 2
    assert in_folder == capsys.readouterr().err


def test_a_gpu_that_the_machine_lacks_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("multitask_operator.commands.run.gpu_count", lambda: 0)
    assert cli.invoke(["run", resource(tmp_path), "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("error: --device cuda: this machine has no NVIDIA GPU")


RESOURCES = [
    ({"tasks": [without(task("a"), "prompt") | {"promptFrom": {"name": "n", "key": "k"}}]}, "spec.tasks[0].promptFrom"),
    ({"tasks": [without(task("a"), "labels") | {"labelsFrom": {"name": "n", "key": "k"}}]}, "spec.tasks[0].labelsFrom"),
    ({"suspend": True}, "spec.suspend: it is true"),
    ({"tasks": [task("a", labels=["only"])]}, "spec.tasks[0].labels: "),
]


@pytest.mark.parametrize(("spec", "message"), RESOURCES)
@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_a_resource_that_cannot_run_on_this_machine(tmp_path, capsys, command, spec, message):
    assert cli.invoke([command, resource(tmp_path, **spec)]) == 2
    assert message in capsys.readouterr().err


TEXTS = ["", "- a\n- list\n", "just text", "a: [1", "a: 1\na: 2\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_file_that_is_not_a_resource_is_named(tmp_path, capsys, text):
    file = tmp_path / "model.yaml"
    file.write_text(text)
    assert cli.invoke(["validate", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}: ")


def test_the_next_command_can_be_pasted_where_paths_have_spaces(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").mkdir()
    file = resource(tmp_path / "my data")
    for split, source in task("urgency")["data"].items():
        path = tmp_path / "my data" / source["uri"]
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({"text": f"{split} {row}", "label": row}) + "\n" for row in "abc"))
    assert cli.invoke(["validate", file]) == 0
    assert f"next: mtm plan '{file}'\n" in capsys.readouterr().out
    assert cli.invoke(["plan", file]) == 0
    assert f"next: mtm run '{file}'\n" in capsys.readouterr().out
    for command in ("serve", "report"):
        assert cli.invoke([command, "my work"]) == 2
        assert "`mtm run FILE --workdir 'my work'`" in capsys.readouterr().err


def test_all_problems_are_listed(tmp_path, capsys):
    file = resource(tmp_path, tasks=[task("a", labels=["x"]), task("b", labels=["y"])])
    assert cli.invoke(["validate", file, "--output", "json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert result["valid"] is False
    assert [problem["path"] for problem in result["problems"]] == ["spec.tasks[0].labels", "spec.tasks[1].labels"]
    assert cli.invoke(["validate", file]) == 2
    assert "error: 2 problems" in capsys.readouterr().err


def test_what_a_cluster_refuses_is_said_here(tmp_path, capsys):
    line = "spec.training.podTemplate.spec.tolerationz"
    file = resource(tmp_path, training={"podTemplate": {"spec": {"tolerationz": []}}})
    assert cli.invoke(["validate", file]) == 2
    out = capsys.readouterr().out
    assert f"\n{line}: unknown field\n{file}: a cluster refuses this; correct it and validate again\n" in out
    assert cli.invoke(["validate", file, "--output", "json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert result["valid"] is False
    assert result["problems"][0] == {"path": line, "message": "unknown field"}


def test_a_wrong_name_hides_no_problem_of_the_data(tmp_path, capsys):
    rows = {"train": ["a", "b", "x"], "validation": ["a", "b"], "test": ["a", "b", "c"]}
    data = {split: {"uri": f"{split}.jsonl"} for split in rows}
    for split, labels in rows.items():
        lines = (json.dumps({"text": f"{split} {label}", "label": label}) + "\n" for label in labels)
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    tasks = [
        task("travel_desk", labels=["only"]),  # which labels are right is not known: its rows are not read
        task("travel_desk"),
        task("urgency", metric="RougeL"),
    ]
    tasks = [entry | {"data": data} for entry in tasks]
    file = resource(tmp_path, tasks=tasks)
    assert cli.invoke(["validate", file, "--output", "json"]) == 2
    result = json.loads(capsys.readouterr().out)
    problems = [f"{problem['path']}: {problem['message']}" for problem in result["problems"]]
    bad_row = "train.jsonl, line 3: label: 'x' is not one of the task's labels; they are 'a', 'b', 'c'"
    unseen = "no row has the label 'c'; add rows, or remove it from the task's labels"
    assert [problem for problem in problems if ".data" in problem] == [
        f"spec.tasks[{index}].data.train: {message}" for index in (1, 2) for message in (bad_row, unseen)
    ]
    assert sum("is not a DNS label" in problem and problem.endswith("write travel-desk") for problem in problems) == 2
    assert [(row["name"], row["rows"]["train"]) for row in result["tasks"]] == [("travel_desk", 2), ("urgency", 2)]
    assert cli.invoke(["validate", file]) == 2
    assert capsys.readouterr().err.count(bad_row) == 2


def test_a_bug_leaves_its_traceback_in_a_file(capsys):
    def broken():
        raise ZeroDivisionError("division by zero")

    assert run_reporting_errors(broken) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ZeroDivisionError: division by zero; this is a bug of mtm; the traceback is in ")
    with open(err.strip().rsplit(" ", 1)[1], encoding="utf-8") as file:  # noqa: PTH123
        assert "Traceback" in file.read()


def test_a_full_disk_is_not_reported_as_a_bug(capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "report.json")

    assert run_reporting_errors(full) == 1
    assert capsys.readouterr().err.startswith("error: report.json: No space left on device; check the path, ")


def test_help_is_fast_and_loads_no_plotting():
    code = "import sys; from multitask_operator.cli import invoke; invoke(['--help']); print(sorted(sys.modules))"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 5  # half a second on a quiet machine
    for module in ("matplotlib", "pydantic", "rich", "jinja2"):
        assert f"'{module}'" not in done.stdout


def test_the_report_command_renders_what_run_wrote(tmp_path, capsys):
    workdir = filled(tmp_path)
    assert cli.invoke(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.endswith(f"has no report.json yet; `mtm run FILE --workdir {tmp_path}` writes it at its end\n")
    workdir.partial_report[1].touch()
    assert cli.invoke(["report", str(tmp_path)]) == 2
    assert f"; partial report: {tmp_path / 'report.partial.html'}\n" in capsys.readouterr().err
    result = build_report(DESK, graph_of(DESK, all_done(DESK)), {})
    (tmp_path / "report.json").write_text(result.model_dump_json(by_alias=True))
    assert cli.invoke(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "qualified 2/2, confirmed 0" in out
    assert f"report: {workdir.path / 'report.html'}" in out
    assert f"a later run has not finished; its partial report: {tmp_path / 'report.partial.html'}\n" in out
    assert "<svg" in (tmp_path / "report.html").read_text()
    (tmp_path / "report.json").write_text("{}")
    assert cli.invoke(["report", str(tmp_path)]) == 2
    assert "was written by another version of mtm" in capsys.readouterr().err


def test_gc_lists_what_it_removes_and_a_dry_run_removes_nothing(tmp_path, capsys):
    filled(tmp_path)
    filled(tmp_path, model(task("urgency"), name="other"))
    assert cli.invoke(["gc", str(tmp_path)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert cli.invoke(["gc", str(tmp_path), "--forget", "desc"]) == 2
    assert "no model 'desc' uses" in capsys.readouterr().err
    assert cli.invoke(["gc", str(tmp_path), "--forget", "desk", "--dry-run", "--output", "json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["removed"] is False
    assert planned["bytes"] > 1000
    assert (tmp_path / "models/desk.json").exists()
    assert cli.invoke(["gc", str(tmp_path), "--forget", "desk"]) == 0
    assert not (tmp_path / "models/desk.json").exists()
    out = capsys.readouterr().out
    assert "removed stages/prepare/reply/" in out
    assert "freed" in out
    assert not (tmp_path / "stages/prepare/reply").exists()
    assert (tmp_path / "stages/prepare/urgency").exists()


def test_what_is_served_is_the_current_export_or_a_bundle_itself(tmp_path):
    workdir = filled(tmp_path)
    key = next(key for key in workdir.manifests() if key[0] == "export")
    workdir.publish(Published(key, key))
    assert exported(tmp_path) == workdir.artifact(key)
    (workdir.artifact(key) / "routes.yaml").write_text("{}")
    assert exported(workdir.artifact(key)) == workdir.artifact(key)


@pytest.mark.parametrize("verified", [True, False])
def test_an_unverified_export_is_served_with_a_warning(tmp_path, capsys, monkeypatch, verified):
    workdir = filled(tmp_path)
    key = next(key for key in workdir.manifests() if key[0] == "export")
    workdir.publish(Published(key, key if verified else None))
    started = []
    monkeypatch.setattr(serve, "exec_module", lambda *program: started.append(program) or 0)
    assert cli.invoke(["serve", str(tmp_path)]) == 0
    assert started[0][2][0] == str(workdir.artifact(key))
    err = capsys.readouterr().err
    assert err.startswith("" if verified else "warning: the served export is unverified: no run has compared ")
    assert err.endswith("" if verified else f"; `mtm run FILE --workdir {tmp_path}`, without --no-serve, verifies it\n")
    assert bool(err) is not verified


def test_export_starts_the_trainers_program_on_the_exported_result(tmp_path, monkeypatch):
    (tmp_path / "routes.yaml").write_text("spec: {}")
    started = []
    monkeypatch.setattr(export, "exec_module", lambda *program: started.append(program) or 0)
    assert cli.invoke(["export", str(tmp_path), "--to", "vllm", "--out", "out", "--base", "org/base"]) == 0
    arguments = [str(tmp_path), "--to", "vllm", "--out", "out", "--base", "org/base"]
    assert started == [("multitask_trainer.adapter_export", "mtm export", arguments)]


@pytest.mark.parametrize("base", [None, "org/base"])
def test_an_export_without_a_base_of_its_own_keeps_that_of_the_work_folder(tmp_path, monkeypatch, base):
    workdir = filled(tmp_path / "work")
    key = next(key for key in workdir.manifests() if key[0] == "export")
    workdir.publish(Published(key, key))
    monkeypatch.setattr(export, "exec_module", lambda *_: 0)
    (tmp_path / "out").mkdir()
    options = ["--base", base] if base else []
    assert cli.invoke(["export", str(workdir.path), "--to", "peft", "--out", str(tmp_path / "out"), *options]) == 0
    assert exported_results(workdir) == (set() if base else {key})


def test_the_servers_options_are_in_the_help_and_passed_on(tmp_path, capsys, monkeypatch):
    workdir = filled(tmp_path)
    key = next(key for key in workdir.manifests() if key[0] == "export")
    workdir.publish(Published(key, key))
    started = []
    monkeypatch.setattr(serve, "exec_module", lambda *program: started.append(program) or 0)
    options = ["--device", "cpu", "--threads", "2", "--triton-port", "8001", "--work", "w"]
    assert cli.invoke(["serve", str(tmp_path), *options]) == 0
    passed = started[0][2][1:]
    assert dict(zip(passed[::2], passed[1::2], strict=True)) == {
        "--address": "127.0.0.1:8081",
        **dict(zip(options[::2], options[1::2], strict=True)),
    }
    assert cli.invoke(["serve", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(option in out for option in options[::2])
    assert "python -m" not in out


def without_manifests(*stages):
    def change(workdir):
        for key in workdir.manifests():
            if key[0] in stages:
                (workdir.artifact(key) / "manifest.json").unlink()

    return change


def failed_verify(workdir):
    key = next(key for key in workdir.manifests() if key[0] == "verify")
    without_manifests("verify", "ledger")(workdir)
    failure = StageFailure(stage="verify", kind="UserError", message="3 of 9 answers differ")
    write_atomically(workdir.work(key) / "failure.json", failure.model_dump_json())


NOTHING_TO_SERVE = [
    ("no export yet", {}, without_manifests("export"), "finish `mtm run FILE --workdir {tmp}` first"),
    ("nothing promoted", {"export": {"promoted": False}}, None, "its last run promoted no result, 2 of 2 tasks"),
    (
        "not verified",
        {},
        without_manifests("verify"),
        "its last export is not verified; `mtm run FILE --workdir {tmp}`",
    ),
    ("not the measured answers", {}, failed_verify, "its last export failed verify, see {tmp}/logs/verify.log; `mtm"),
]


@pytest.mark.parametrize(("sentence", "results", "change", "message"), NOTHING_TO_SERVE)
def test_nothing_to_serve(tmp_path, capsys, sentence, results, change, message):
    workdir = filled(tmp_path, **results)
    if change:
        change(workdir)
    assert cli.invoke(["serve", str(tmp_path)]) == 2
    assert f"has nothing to serve; {message.format(tmp=tmp_path)}" in capsys.readouterr().err


def test_cluster_fields_that_the_file_sets_are_listed():
    assert ignored_fields(model()) == []
    spec = {
        "storage": {"uri": "pvc://c/p"},
        "training": {"queueName": "q", "gpusPerNode": 2, "sharding": "Always"},
        "serving": {"replicas": 3},
    }
    assert ignored_fields(model(**spec)) == [
        "spec.storage",
        "spec.serving",
        "spec.training.gpusPerNode",
        "spec.training.sharding",
        "spec.training.queueName",
    ]


DEVICES = [({}, "auto", "auto"), ({"gpusPerNode": 0}, "auto", "cpu"), ({"gpusPerNode": 0}, "cuda", "cuda")]


@pytest.mark.parametrize(("training", "wanted", "expected"), DEVICES)
def test_zero_gpus_per_node_selects_the_cpu(training, wanted, expected):
    resource = model(training=training)
    assert device(resource, wanted) == expected
    assert ignored_fields(resource) == []
