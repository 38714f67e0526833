"""evaluate and export on real tiny models: verdicts, routes, and bundles that answer as they were judged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from multitask_api.bundle import ServedTask
from multitask_api.routes import TaskRoute
from multitask_api.stage_io.manifest import MANIFEST
from multitask_api.stage_io.parameters import EvaluateParameters
from multitask_api.stage_io.results import EvaluateResult
from multitask_serving.engine.classification import scoring
from multitask_serving.engine.engine import Engine
from multitask_trainer.data.rows import Row
from multitask_trainer.errors import Interrupted, MergeChangesModel
from multitask_trainer.evaluation.scoring import answer_rows, read_scores
from multitask_trainer.stages import evaluate
from support.evaluation_fixtures import (
    INTENT,
    TEXTS,
    TRAIN,
    URGENCY,
    EvaluationSuite,
    make_adapter,
    make_base,
    make_servable,
    noisy,
    run_evaluate,
    run_export,
    suite_of,
    train_result,
)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    suite = suite_of(tmp_path_factory.mktemp("full"), "Full")
    return suite, run_evaluate(suite)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    suite = suite_of(tmp_path_factory.mktemp("lora"), "LoRA")
    return suite, run_evaluate(suite)


def test_verdicts(full):
    _, verdicts = full
    intent, urgency, reply = verdicts["intent"], verdicts["urgency"], verdicts["reply"]
    assert (intent.verdict, intent.ratio, intent.interval, intent.confirmed) == ("Qualified", 1.0, (1.0, 1.0), False)
    assert intent.floor is not None
    assert intent.floor < intent.score < 1.0
    assert urgency.verdict in ("NotQualified", "Inconclusive")
    assert len(urgency.baseline_scores) == 5
    assert urgency.score < 0.9 * urgency.baseline
    assert (reply.verdict, reply.baseline, reply.ratio) == ("NoBaseline", None, None)
    assert reply.score == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("task", ["intent", "reply"])
def test_every_pass_of_the_model_is_reported(full, monkeypatch, task):
    """Of a label task as of a generated text, and not only where it begins."""
    suite, _ = full
    monkeypatch.setitem(scoring.TOKEN_BUDGETS, "cpu", 64)  # several passes for a few rows
    definition = next(item for item in suite.tasks if item.name == task)
    rows = suite.rows[task]
    reports = []

    class Reporter:
        def report(self, phase, **position):
            reports.append((phase, position["step"], position["total"]))

    engine = Engine.load(Path(suite.addresses["bundle"]) / "bundle", threads=1, tasks=[task])
    answers = answer_rows(engine, definition, rows, Reporter())
    steps = [step for _, step, _ in reports]
    assert (steps[0], steps[-1], len(answers)) == (0, len(rows), len(rows))
    assert steps == sorted(steps)
    assert len(set(steps)) > 2
    assert {(phase, total) for phase, _, total in reports} == {(f"answering {task}", len(rows))}


def test_overlap_is_counted_over_all_tasks_and_the_ratio_given_without(full):
    _, verdicts = full
    assert verdicts["urgency"].overlap_rows == 2
    assert verdicts["intent"].overlap_rows == 2, "intent's test rows stand in urgency's train split"
    assert verdicts["intent"].ratio_without_overlap == 1.0


def test_declared_baseline_and_improving_baseline(full):
    suite, _ = full
    declared = run_evaluate(suite, declared_baselines={"reply": 0.9})["reply"]
    assert (declared.verdict, declared.baseline, declared.confirmed) == ("Qualified", 0.9, False)
    run_evaluate(suite)  # leaves the artifacts as the fixture made them


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_export_answers_as_judged(kind, request):
    suite, verdicts = request.getfixturevalue(kind)
    folder, result = run_export(suite)
    served = {item.task: item for item in result.tasks}
    assert served["intent"].served_by == "classification"
    assert served["urgency"].served_by == "baseline"
    assert served["urgency"].reason.startswith(verdicts["urgency"].verdict)
    assert served["reply"].served_by is None
    if kind == "full":
        assert set(result.models) == {"classification", "baseline.urgency"}
    else:
        assert set(result.models) == {"base"}
        assert (served["intent"].adapter, served["urgency"].adapter) == ("classification", "baseline.urgency")
    engine = Engine.load(folder / "bundle", threads=1)
    assert engine.tasks == ("intent", "urgency")
    for task in (INTENT, URGENCY):
        now = answer_rows(engine, task, suite.rows[task.name])
        judged = read_scores(folder / "answers" / f"{task.name}.parquet")
        assert [answer.prediction for answer in now] == [answer.prediction for answer in judged]
        assert [answer.margin for answer in now] == pytest.approx([answer.margin for answer in judged], abs=1e-4)
    assert judged == read_scores(Path(suite.addresses["baseline/urgency/seed-1"]) / "scores.parquet")


def test_export_serves_an_open_task_from_the_mixture_that_is_surely_better(tmp_path):
    suite = suite_of(tmp_path, "LoRA")
    verdicts = run_evaluate(suite)
    better = verdicts["urgency"].model_copy(update={"verdict": "Inconclusive", "advantage": (0.08, 0.26)})
    evaluated = Path(suite.addresses["evaluate/classification"])
    answers = shutil.copytree(evaluated, suite.scratch("evaluated"), ignore=shutil.ignore_patterns("manifest.json"))
    suite.artifact("evaluate/classification", EvaluateResult(tasks=(verdicts["intent"], better)), answers)
    folder, result = run_export(suite)
    served = next(item for item in result.tasks if item.task == "urgency")
    assert (served.served_by, served.adapter, served.cause) == ("classification", "classification", "SurelyBetter")
    route = TaskRoute.model_validate(yaml.safe_load((folder / "routes.yaml").read_text()))
    assert {task.name: task.served_by for task in route.spec.tasks} == dict.fromkeys(
        ("intent", "urgency"), "classification"
    )
    engine = Engine.load(folder / "bundle", threads=1)
    now = [answer.prediction for answer in answer_rows(engine, URGENCY, suite.rows["urgency"])]
    assert now == [answer.prediction for answer in read_scores(folder / "answers" / "urgency.parquet")]
    own = read_scores(Path(suite.addresses["baseline/urgency/seed-1"]) / "scores.parquet")
    assert now != [answer.prediction for answer in own]


def test_export_writes_what_servers_read(full):
    suite, _ = full
    folder, result = run_export(suite)
    route = TaskRoute.model_validate(yaml.safe_load((folder / "routes.yaml").read_text()))
    assert [(task.name, task.fields, task.served_by) for task in route.spec.tasks] == [
        ("intent", ("text",), "classification"),
        ("urgency", ("text",), "baseline"),
    ]
    assert {backend.revision for task in route.spec.tasks for backend in task.backends} == {result.revision}
    golden = [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]
    assert len(golden) == 2 * len(TEXTS)
    assert golden[0]["fields"] == {"text": TEXTS[0]}
    assert golden[0]["label"] in INTENT.labels
    assert (folder / "triton" / "multitask" / "config.pbtxt").exists()
    assert (folder / "triton" / "multitask" / "../../bundle").resolve() == (folder / "bundle").resolve()
    assert result.models == {
        name: (folder / "bundle" / "models" / name / "model.safetensors").stat().st_size for name in result.models
    }


@pytest.mark.parametrize(
    ("environment", "device"),
    [
        ({"device": "auto", "accelerator": "NVIDIA L4"}, "NVIDIA L4"),
        ({"device": "cpu"}, "cpu"),  # of a release that recorded the order's device only
        ({"device": "auto"}, None),
    ],
)
def test_golden_requests_say_which_device_answered_them(full, environment, device):
    suite, _ = full
    source = Path(suite.addresses["baseline/urgency/seed-1"]) / MANIFEST
    before = source.read_text()
    source.write_text(json.dumps(json.loads(before) | {"environment": environment}))
    try:
        folder, _ = run_export(suite)
    finally:
        source.write_text(before)
    golden = [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]
    assert {row.get("device") for row in golden if row["task"] == "urgency"} == {device}
    assert {row.get("device") for row in golden if row["task"] == "intent"} == {None}


def test_weights_are_linked_not_copied(full):
    suite, _ = full
    folder, _ = run_export(suite)
    source = Path(suite.addresses["baseline/urgency/seed-1"]) / "served" / "model" / "model.safetensors"
    assert (folder / "bundle" / "models" / "baseline.urgency" / "model.safetensors").samefile(source)


def test_same_content_same_revision(full):
    suite, _ = full
    assert run_export(suite)[1].revision == run_export(suite)[1].revision


def test_all_qualified_or_nothing(full):
    suite, _ = full
    folder, result = run_export(suite, promote="AllQualified")
    assert not result.promoted
    assert not (folder / "bundle").exists()
    assert all("not every task qualified" in item.reason and item.served_by is None for item in result.tasks)


def test_golden_rows_are_at_most_200_a_task():
    from multitask_trainer.evaluation.answers import Answer
    from multitask_trainer.export.serving_files import golden_lines

    task = ServedTask(name="t", type="Generation", model="m", pieces=(), eos=1, max_length=8)
    rows = [Row({"text": str(number)}, label="a") for number in range(450)]
    lines = golden_lines(task, rows, [Answer("x", 1.0, 0.5, ("a",)), Answer("y", 1.0, 0.05, ("a",))] * 225, 0.1)
    assert len(lines) == 150
    awkward = golden_lines(task, [Row({"text": "a\u2028b\x85c"})], [Answer("ü\u2029", 1.0, 0.5, ("a",))], 0.1)
    assert len("".join(awkward).splitlines()) == 1
    assert json.loads(awkward[0])["fields"] == {"text": "a\u2028b\x85c"}
    assert json.loads(lines[0]) == {"task": "t", "fields": {"text": "0"}, "text": "x", "nearTie": False}
    assert json.loads(lines[1]) == {"task": "t", "fields": {"text": "3"}, "text": "y", "nearTie": True}


def alone(root):
    """A suite of one group and one task, qualified, on one adapter."""
    suite = EvaluationSuite(root, (INTENT,))
    make_base(suite.scratch("base") / "model")
    suite.artifact("base", train_result("x"), suite.scratch("base"))
    servable = make_adapter(suite.scratch("form"), seed=1)
    rows = [Row({"text": text}, label="") for text in TEXTS]
    predictions = [answer.prediction for answer in answer_rows(suite.engine(servable, [INTENT]), INTENT, rows)]
    suite.prepare(INTENT, noisy(predictions, INTENT.labels, 0.1, 4), TEXTS, TRAIN["intent"])
    suite.baseline(INTENT, servable)
    suite.bundle({"classification": (servable, [INTENT])})
    parameters = EvaluateParameters(group="classification", tasks=(INTENT,), threshold=0.99, rule="Point", seed=1)
    stage = suite.stage("evaluate/classification", "evaluate", parameters)
    suite.publish(stage, evaluate.work(stage))
    return suite


def test_one_adapter_that_everything_qualified_on_is_merged(tmp_path):
    suite = alone(tmp_path)
    folder, result = run_export(suite, groups={"classification": (INTENT,)})
    assert set(result.models) == {"classification"}
    assert result.tasks[0].adapter is None
    assert not (folder / "bundle" / "adapters").exists()
    golden = [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]
    assert {"device" in row for row in golden} == {True}, "the merged weights were measured here"
    merged, unmerged = Engine.load(folder / "bundle"), Engine.load(Path(suite.addresses["bundle"]) / "bundle")
    for row, other in zip(
        *(answer_rows(engine, INTENT, suite.rows["intent"]) for engine in (merged, unmerged)), strict=True
    ):
        assert row.prediction == other.prediction
        assert row.margin == pytest.approx(other.margin, abs=1e-4)


def other_weights(suite, tmp_path):
    """A merge that gives another model than it should."""
    other = make_servable(tmp_path / "other", Path(suite.addresses["base"]) / "model", seed=2) / "model"
    return lambda base, source, adapter, target, precision: shutil.copytree(other, target)


def nothing_alike(suite, tmp_path):
    def compare(base, source, adapter, target, precision):
        raise MergeChangesModel("the adapter, merged, changes logits by 0.5 of their largest size; unmerged")

    return compare


def unreadable(suite, tmp_path):
    """A merge that writes files which no model is read from."""
    other = make_servable(tmp_path / "other", Path(suite.addresses["base"]) / "model", seed=2) / "model"

    def write(base, source, adapter, target, precision):
        shutil.copytree(other, target)
        (target / "model.safetensors").write_bytes(b"{}")

    return write


def of_another_kind(suite, tmp_path):
    """A merge that fails in the library."""

    def fail(base, source, adapter, target, precision):
        raise KeyError("lm_head.weight")

    return fail


@pytest.mark.parametrize(
    ("merge", "reason"),
    [
        (unreadable, r"the merged model cannot be used \(InvalidBundle: .*the model cannot be read.*unmerged"),
        (of_another_kind, r"the merged model cannot be used \(KeyError: 'lm_head.weight'\); the adapter is served unm"),
        (other_weights, r"task intent: with its adapter merged it scores 0\.\d+ instead of .* is served unmerged"),
        (nothing_alike, "the adapter, merged, changes logits by 0.5"),
    ],
)
def test_a_merge_that_would_change_answers_leaves_the_adapter_as_it_is(tmp_path, monkeypatch, capsys, merge, reason):
    suite = alone(tmp_path)
    monkeypatch.setattr("multitask_trainer.export.routed_bundle.merge_adapter", merge(suite, tmp_path))
    folder, result = run_export(suite, groups={"classification": (INTENT,)})
    (warning,) = result.warnings
    assert re.search(reason, warning)
    assert f"export: {warning}\n" in capsys.readouterr().err
    assert (result.tasks[0].model, result.tasks[0].adapter) == ("base", "classification")
    assert set(result.models) == {"base"}
    evaluated = Path(suite.addresses["evaluate/classification"]) / "answers" / "intent.parquet"
    assert (folder / "answers" / "intent.parquet").read_bytes() == evaluated.read_bytes()
    served, measured = Engine.load(folder / "bundle"), Engine.load(Path(suite.addresses["bundle"]) / "bundle")
    rows = suite.rows["intent"]
    assert answer_rows(served, INTENT, rows) == answer_rows(measured, INTENT, rows)
    assert served.bundle.revision == result.revision


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Interrupted("stopped")])
def test_a_merge_that_the_machine_ends_ends_the_stage(tmp_path, monkeypatch, error):
    def fail(base, source, adapter, target, precision):
        raise error

    suite = alone(tmp_path)
    monkeypatch.setattr("multitask_trainer.export.routed_bundle.merge_adapter", fail)
    with pytest.raises(type(error), match=str(error).replace("[", ".").replace("]", ".")):
        run_export(suite, groups={"classification": (INTENT,)})


@pytest.mark.parametrize("rule", ["Point", "LowerBound"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_task_whose_baseline_is_the_group_s_model_is_compared_with_that_very_model(tmp_path, rule, seeds):
    suite = alone(tmp_path)
    servable = suite.scratch("form")
    for seed in range(2, seeds + 1):
        suite.baseline(INTENT, make_adapter(suite.scratch(f"other-{seed}"), seed=seed + 7), seed=seed)
    suite.bundle(
        {"classification": (servable, [INTENT])}, reads={"mixture/classification#model": "baseline/intent/seed-1"}
    )
    parameters = EvaluateParameters(group="classification", tasks=(INTENT,), threshold=0.99, rule=rule, seed=1)
    stage = suite.stage("evaluate/classification", "evaluate", parameters)
    (verdict,) = evaluate.work(stage).result.tasks
    assert (verdict.verdict, verdict.ratio, verdict.interval) == ("Qualified", 1.0, (1.0, 1.0))
    assert len(verdict.baseline_scores) == 1
    assert verdict.reason == "intent is alone in its group: its baseline is the group's model"


@pytest.mark.parametrize(
    ("others", "verdict", "reason"),
    [
        (60, "Qualified", "its baseline is the group's model; judged by the other 60: {leaked} of {rows} test rows"),
        (
            3,
            "Qualified",
            "its baseline is the group's model; {leaked} of {rows} test rows are also in a train split, and",
        ),
        (0, "Inconclusive", "all {rows} test rows are also in a train split: none is left to judge by"),
    ],
)
def test_leaked_rows_stand_in_the_reason_of_a_task_that_is_alone_too(tmp_path, monkeypatch, others, verdict, reason):
    suite = alone(tmp_path)
    rows = len(suite.rows["intent"])
    assert rows > others
    monkeypatch.setattr(evaluate, "overlapping_rows", lambda test, _: np.arange(len(test)) >= others)
    suite.bundle(
        {"classification": (suite.scratch("form"), [INTENT])},
        reads={"mixture/classification#model": "baseline/intent/seed-1"},
    )
    parameters = EvaluateParameters(group="classification", tasks=(INTENT,), threshold=0.99, rule="Point", seed=1)
    (found,) = evaluate.work(suite.stage("evaluate/classification", "evaluate", parameters)).result.tasks
    assert found.verdict == verdict
    assert reason.format(leaked=rows - others, rows=rows) in found.reason
    assert found.overlap_rows == rows - others
