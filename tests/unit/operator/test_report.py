"""The report from manifests, its page, and the estimate of what is left."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from multitask_api.report import Report
from multitask_api.stage_io.results import GroupPlan, TaskVerdict
from multitask_operator.formatting import interval
from multitask_operator.planner.estimate import Speed, estimate, speed_from_flops
from multitask_operator.report.build import build_report, frozen_base_notes
from multitask_operator.report.html import render
from support.graph_builders import all_done, graph_of, model, task

DESK = model()


def report(resource=DESK, stage_seconds=None, **results):
    graph = graph_of(resource, all_done(resource, **results))
    return build_report(resource, graph, stage_seconds or {})


def test_the_headline_counts_verdicts():
    result = report()
    assert (result.qualified, result.confirmed, result.total) == (4, 0, 4)
    assert result.revision == "0123abcd"
    assert result.serving.different == 0
    assert result.ledger.reduction.replicas == 0.75


def test_confirmed_counts_qualified_tasks_alone():
    judged = [("urgency", "Qualified", True), ("intent", "NotQualified", True), ("escalate", "Inconclusive", False)]
    verdicts = tuple(
        TaskVerdict(task=name, score=0.5, verdict=verdict, confirmed=confirmed, test_rows=9)
        for name, verdict, confirmed in judged
    )
    resource = model(task("urgency"), task("intent"), task("escalate"))
    result = report(resource, evaluate={"tasks": verdicts})
    assert (result.qualified, result.confirmed, result.total) == (1, 1, 3)


@pytest.mark.parametrize(
    ("freedom", "source", "shown", "explained"),
    [(0, "rows", "0.970 – 1.030 (rows only)", True), (4, "rows and seeds", "0.970 – 1.030", False)],
)
def test_an_interval_from_rows_alone_is_marked(freedom, source, shown, explained):
    verdict = TaskVerdict(
        task="urgency", score=0.9, baseline=0.9, ratio=1.0, interval=(0.97, 1.03), verdict="Qualified", test_rows=9
    )
    result = report(model(task("urgency")), evaluate={"tasks": (verdict,), "degrees_of_freedom": freedom})
    assert result.tasks[0].interval_from == source
    assert interval(result.tasks[0].interval, source) == shown
    page = render(result)
    assert f">{shown}<" in page
    assert ("Rows only:" in page) is explained


def test_a_task_without_an_interval_has_a_dash():
    assert interval(None, None) == "–"


def test_a_stage_is_cached_unless_this_run_ran_it():
    result = report(stage_seconds={"base": 7.5})
    by_name = {stage.name: stage for stage in result.stages}
    assert (by_name["base"].cached, by_name["base"].seconds) == (False, 7.5)
    assert (by_name["filter"].cached, by_name["filter"].seconds) == (True, 2.0)
    assert by_name["high-resource/generation"].skipped == "one task alone needs no stage 2"
    assert by_name["high-resource/generation"].state == "skipped"
    assert by_name["high-resource/generation"].cached is None
    assert (by_name["mixture/generation"].state, by_name["base"].state, by_name["filter"].state) == (
        "skipped",
        "ran",
        "cached",
    )
    assert by_name["mixture/classification"].tokens == 512_000
    assert by_name["mixture/classification"].curve


@pytest.mark.parametrize(("ended_by", "warned"), [("limit", True), ("settled", False), ("patience", False)])
def test_rows_that_early_stopping_saved_are_counted_and_do_not_count_as_missing(ended_by, warned):
    result = report(mixture={"steps": 300, "ended_by": ended_by, "rows_given": dict.fromkeys(["urgency"], 1500)})
    group = next(group for group in result.groups if group.name == "classification")
    stage = next(stage for stage in result.stages if stage.name == "mixture/classification")
    assert (stage.steps, stage.ended_by, stage.saved_rows) == (300, ended_by, 100 * 64)
    stage2 = next(stage for stage in result.stages if stage.name == "high-resource/classification")
    assert group.saved_rows == stage.saved_rows + stage2.saved_rows
    assert any("needed 2,000" in text for text in group.warnings) == warned


def test_a_task_row_joins_data_verdict_and_route():
    row = report().tasks[0]
    assert (row.name, row.group, row.metric, row.rows.train) == ("urgency", "classification", "Accuracy", 4000)
    assert (row.baseline, row.score, row.verdict, row.served_by) == (0.85, 0.86, "Qualified", "classification")
    assert (row.saturation_steps, row.floor) == (300, 0.4)


def test_the_report_of_an_unfinished_run_has_what_is_known():
    graph = graph_of(DESK, all_done(DESK, until="filter"))
    result = build_report(DESK, graph, {})
    assert (result.revision, result.qualified, result.total, result.groups) == (None, 0, 4, ())
    assert [row.baseline for row in result.tasks] == [0.85] * 4
    assert [row.verdict for row in result.tasks] == [None] * 4


WARNINGS = [
    ("a baseline at its limit", {"baseline": {"still_improving": True}}, "was still improving at its last step"),
    ("rows that were truncated", {"mixture": {"truncated_rows": {"intent": 3}}}, "3 rows of intent were longer"),
    ("rows that were truncated in evaluation", {"evaluate": {"truncated_rows": {"intent": 2}}}, "2 rows of intent"),
    ("bad rows skipped", {"prepare": {"bad_rows": 4}}, "4 bad rows were skipped"),
    ("a warning of prepare", {"prepare": {"warnings": ("5 of 9 rows repeat",)}}, "prepare/urgency: 5 of 9 rows repeat"),
    ("a warning of base", {"base": {"warnings": ("little text",)}}, "base: little text"),
    ("a warning of export", {"export": {"warnings": ("it is served unmerged",)}}, "export: it is served unmerged"),
]


@pytest.mark.parametrize(("sentence", "results", "part"), WARNINGS, ids=[row[0] for row in WARNINGS])
def test_warnings(sentence, results, part):
    assert not [text for text in report().warnings if part in text]
    assert [text for text in report(**results).warnings if part in text]


def test_a_task_that_got_fewer_rows_than_it_needed_is_warned_about():
    enough, needed = 1_000, 99_999_999
    resource = model(task("urgency"), task("intent"))

    def plans(need):
        names = ("urgency", "intent")
        halves = dict.fromkeys(names, 0.5)
        plan = GroupPlan(
            name="classification",
            tasks=names,
            reason="none",
            probabilities=halves,
            mixture_steps=400,
            need_rows={"urgency": need, "intent": enough},
        )
        return {"groups": (plan,)}

    assert report(resource, filter=plans(enough)).groups[0].warnings == ()
    warnings = report(resource, filter=plans(needed)).groups[0].warnings
    assert len(warnings) == 1
    assert "urgency was given 12,800 rows in stages 2 and 3; its single-task model needed 99,999,999" in warnings[0]


CHATS = {"maxSteps": 10, "tasksText": False, "corpus": [{"uri": "chats.jsonl"}]}
LATE = [
    # a sentence, spec.baseModel.uri, spec.pretraining, parts of the note (None: no note)
    ("a built-in tokenizer", "builtin://tiny", None, ("tokenizer", "spec.baseModel.revision")),
    ("pre-trained on the tasks", "builtin://tiny", {"maxSteps": 10}, ("was not trained", "spec.pretraining.refresh")),
    ("pre-trained on chats", "builtin://tiny", CHATS, ("tokenizer", "spec.pretraining.refresh")),
    (
        "the hub's, trained on the tasks",
        "hf://org/name",
        {"maxSteps": 10},
        ("was not trained", "spec.pretraining.refresh"),
    ),
    ("the hub's, trained on chats", "hf://org/name", CHATS, None),
    ("the hub's", "hf://org/name", None, None),
]


@pytest.mark.parametrize(("sentence", "uri", "pretraining", "expected"), LATE, ids=[row[0] for row in LATE])
def test_a_task_added_after_the_base_was_made_is_noted_where_its_text_counts(sentence, uri, pretraining, expected):
    more = {"baseModel": {"uri": uri}} | ({"pretraining": pretraining} if pretraining else {})
    old, new = model(task("urgency"), **more), model(task("urgency"), task("billing"), **more)
    notes = frozen_base_notes(new, graph_of(new, all_done(old)))
    assert len(notes) == (0 if expected is None else 1), sentence
    assert all(part in notes[0] for part in ("billing", *(expected or ())) if notes)


def test_the_estimate_bounds_what_is_left_and_takes_the_measured_speed():
    first = estimate(DESK, graph_of(DESK))
    # Four baselines of 4000 steps, stage 2 of 3000 in two groups, mixtures of 4000 a task; 64 rows of maxLength a step.
    steps = 4 * 4000 + 2 * 3000 + 4 * 4000
    assert (first.steps, first.rows, first.tokens) == (steps, steps * 64, steps * 64 * 1024)
    assert (first.speed, first.seconds) == (None, None)
    half = {key: value for key, value in all_done(DESK, until="filter").items() if "urgency/seed" not in key[0]}
    result = estimate(DESK, graph_of(DESK, half), otherwise=Speed(1.0, "rough"))
    # One baseline of 4000 steps, stage 2 of 3000 in two groups, mixtures of 4000 a task; 64 rows of 20 tokens a step.
    steps = 4000 + 2 * 3000 + 4 * 4000
    assert result.speed == Speed(8000.0, "measured")
    assert result.tokens == steps * 64 * 20
    assert result.seconds == pytest.approx(steps * 64 * 20 / 8000)
    assert estimate(DESK, graph_of(DESK, all_done(DESK))).seconds == 0


def test_the_speed_is_that_of_the_machine_not_of_the_folder():
    half = {key: value for key, value in all_done(DESK, until="filter").items() if "urgency/seed" not in key[0]}
    moved = {key: value.model_copy(update={"environment": {"host": "another"}}) for key, value in half.items()}
    rough = Speed(100.0, "rough")
    assert estimate(DESK, graph_of(DESK, moved), host="here", otherwise=rough).speed == rough
    assert estimate(DESK, graph_of(DESK, moved), host="another", otherwise=rough).speed == Speed(8000.0, "measured")


SPEEDS = [
    # method, weights, tokens/s at 6 GFLOP/s
    ("Full", 1_000_000, 1000),
    ("LoRA", 1_000_000, 1500),
    ("Full", None, None),
]


@pytest.mark.parametrize(("method", "parameters", "expected"), SPEEDS)
def test_a_rough_speed_follows_from_weights_and_flops(method, parameters, expected):
    speed = speed_from_flops(model(tuning={"method": method}), parameters, 6e9)
    assert (speed and round(speed.tokens_per_second)) == expected


class Page(HTMLParser):
    """What a page loads, and its text."""

    def __init__(self):
        super().__init__()
        self.loaded, self.words, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_stands_alone_and_shows_every_part():
    text = render(report())
    page = Page()
    page.feed(text)
    assert not [address for address in page.loaded if not address.startswith("#")]
    assert "url(http" not in text
    assert "@import" not in text
    assert page.tags.count("svg") == 6  # qualification, scores, losses, two groups' sampling, ledger
    words = " ".join(page.words)
    for part in (
        "4/4",
        "Qualification",
        "Which model serves each task, and why",
        "Validation during",
        "Groups and sampling",
        "Ledger",
    ):
        assert part in words
    assert text.count('role="img"') == page.tags.count("svg")
    assert not re.search(r"#0[1-7]0[1-7]0f", text), "every placeholder colour is replaced"


def test_the_page_shows_the_training_seconds_of_both_sides():
    page = Page()
    page.feed(render(report()))
    words = " ".join("".join(page.words).split())
    assert "Single-task: base 20 s, baseline 60 s. This server: base 20 s, baseline 60 s, mixture 50 s." in words


def test_the_page_of_a_run_that_has_only_a_base():
    graph = graph_of(DESK, all_done(DESK, until="base"))
    text = render(build_report(DESK, graph, {}))
    assert "no revision exported yet" in text
    assert "<svg" not in text


def test_texts_from_outside_cannot_become_markup():
    text = render(report(base={"warnings": ("<script>alert(1)</script>",)}))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_json_keeps_the_keys_that_other_programs_read():
    data = report().model_dump(mode="json", by_alias=True)
    assert data["schema"] == "multitask.dev/report/v1"
    assert {"name", "digest", "cached", "seconds"} <= set(data["stages"][0])
    assert {"highResource", "probabilities", "stage2Rows", "stage3Rows"} <= set(data["groups"][0])
    assert {"servedBy", "saturationSteps", "interval", "verdict"} <= set(data["tasks"][0])
    assert {"compared", "equal", "nearTies", "different"} == set(data["serving"])
    assert {"models", "bytes", "requestsPerSecond", "trainingSeconds"} <= set(data["ledger"]["singleTask"])
    assert Report.model_validate(data) == report()
