"""The report from manifests, its page, and the estimate of what is left."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from multitask_api.report import Report, ReportChanges, ReportMachine
from multitask_api.serving_io.verify import Flip, TaskFlips
from multitask_api.stage_io.ledger import LedgerResult, LedgerSide, Reduction
from multitask_api.stage_io.results import (
    GroupPlan,
    ServedBy,
    SplitRows,
    TaskVerdict,
)
from multitask_operator.commands.console import qualification
from multitask_operator.formatting import counted, interval, listed
from multitask_operator.planner.estimate import estimate
from multitask_operator.planner.stage_costs import Speed
from multitask_operator.report.build import build_report
from multitask_operator.report.html import render
from multitask_operator.report.report_warnings import frozen_base_notes
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
    ("a baseline at its limit", {"baseline": {"still_improving": True}}, "still improving at its last step"),
    ("rows that were truncated", {"mixture": {"truncated_rows": {"intent": 3}}}, "3 rows of intent longer"),
    ("rows that were truncated in evaluation", {"evaluate": {"truncated_rows": {"intent": 2}}}, "2 rows of intent"),
    ("bad rows skipped", {"prepare": {"bad_rows": 4}}, "4 bad rows skipped"),
    (
        "a warning of prepare",
        {"prepare": {"warnings": ("5 of 9 rows repeat",)}},
        "prepare/reply: 5 of 9 rows repeat",
    ),
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


def test_what_several_stages_or_tasks_say_alike_is_one_sentence():
    result = report(baseline={"still_improving": True}, prepare={"bad_rows": 1})
    said = [text for text in result.warnings if "still improving" in text]
    assert len(said) == 1
    assert said[0].startswith("baseline/urgency/seed-17, baseline/intent/seed-17")
    assert [text for text in result.warnings if "1 bad row skipped" in text]

    tail = "not confirmed: one seed does not show how much a single-task model varies"
    served = [
        ServedBy(task=name, served_by="classification", reason=f"Qualified: {name} is good; {tail}", cause="Qualified")
        for name in ("urgency", "intent", "escalate", "reply")
    ]
    page = render(report(export={"tasks": tuple(served)}))
    assert page.count(tail) == 1
    assert f"All tasks: {tail}." in page
    assert page.count("urgency is good") == 1


LEAKED = TaskVerdict(
    task="urgency",
    score=0.95,
    baseline=0.94,
    ratio=1.011,
    interval=(0.99, 1.03),
    verdict="NotQualified",
    cause="BelowThreshold",
    test_rows=400,
    overlap_rows=85,
    ratio_without_overlap=0.931,
    interval_without_overlap=(0.88, 0.985),
    judged_without_overlap=True,
)
LEAKS = [
    ("judged without them", {}, "the verdict is by the others, where the ratio is 0.931", "0.931*"),
    ("too few others", {"judged_without_overlap": False}, "too few rows for a verdict", "0.931<"),
    (
        "all of them",
        {"judged_without_overlap": False, "ratio_without_overlap": None, "overlap_rows": 400},
        "the score says nothing about new texts",
        "400/400",
    ),
    (
        "one row",
        {"judged_without_overlap": False, "ratio_without_overlap": None, "overlap_rows": 1},
        None,
        "1/400",
    ),
]


@pytest.mark.parametrize(("sentence", "changes", "warning", "cell"), LEAKS, ids=[row[0] for row in LEAKS])
def test_leaked_test_rows_stand_in_the_table_and_in_a_warning(sentence, changes, warning, cell, capsys):
    verdict = LEAKED.model_copy(update=changes)
    rows = SplitRows(train=4000, validation=50, test=400)
    result = report(model(task("urgency")), evaluate={"tasks": (verdict,)}, prepare={"rows": rows})
    leaks = [text for text in result.warnings if "also in a train split" in text]
    if warning is None:
        assert leaks == []
    else:
        assert [text for text in leaks if warning in text and f"{verdict.overlap_rows} of 400" in text]
    page = render(result)
    qualification(result)
    table = capsys.readouterr().out
    share = f"{verdict.overlap_rows}/400"
    assert f">{share}<" in page
    assert f">{cell}" in page
    assert share in table
    assert cell.strip("<") in table


def test_a_task_without_leaked_rows_has_no_columns_for_them(capsys):
    qualification(report())
    assert "ratio without" not in capsys.readouterr().out
    assert "ratio without" not in render(report())


def test_why_a_model_answers_stands_in_report_and_table(capsys):
    served = (ServedBy(task="urgency", served_by="classification", reason="Inconclusive: …", cause="SurelyBetter"),)
    result = report(model(task("urgency")), export={"tasks": served})
    assert (result.tasks[0].served_by, result.tasks[0].cause) == ("classification", "SurelyBetter")
    qualification(result)
    assert "AtLeastAsGood" in capsys.readouterr().out


def test_the_head_says_when_where_and_from_what():
    graph = graph_of(DESK, all_done(DESK))
    result = build_report(DESK, graph, {}, now=1_700_000_000.0)
    machine = ReportMachine(host="node-7", cpus=16, threads=4, device="cuda")
    result = result.model_copy(update={"machines": (machine,), "base_parameters": 135_000_000})
    assert result.written == "2023-11-14 22:13 UTC"
    assert result.base_model == "builtin://tiny"
    assert result.data == ("urgency", "intent", "escalate", "reply")
    text = " ".join("".join(words_of(render(result))).split())
    for part in (
        "written 2023-11-14 22:13 UTC",
        "builtin://tiny, 135,000,000 weights",
        "4 tasks; rows: 15,110 train",
        "node-7: 16 CPUs (4 threads used), cuda",
    ):
        assert part in text


def words_of(text):
    page = Page()
    page.feed(text)
    return page.words


def ledger(rates, mixed=103.0):
    single = LedgerSide(
        models=len(rates), bytes=9, requests_per_second=sum(rates.values()), training_seconds=9, replicas=2, tasks=rates
    )
    multi = LedgerSide(models=1, bytes=4, requests_per_second=mixed, training_seconds=9, replicas=1)
    reduction = Reduction(bytes=0.5, replicas=0.5)
    return LedgerResult(
        single_task=single, multi_task=multi, reduction=reduction, load_per_task=10.0, runtime_bytes=9_000_000
    )


@pytest.mark.parametrize(
    ("rates", "same_terms"),
    [
        ({"a": 100.0, "b": 100.0}, 100.0),
        ({"a": 300.0, "b": 30.0}, 2 / (1 / 300 + 1 / 30)),
        ({}, None),
        ({"a": 0.0, "b": 30.0}, None),
    ],
)
def test_requests_per_second_are_compared_on_the_same_cores_and_mix_or_not_at_all(rates, same_terms):
    result = ledger(rates)
    assert result.single_task_rate == (None if same_terms is None else pytest.approx(same_terms))
    page = render(report().model_copy(update={"ledger": result}))
    assert (">requests/s<" in page) is (same_terms is not None)
    if same_terms is not None:
        assert f">{same_terms:,.0f}</td>" in page
        assert f">{sum(rates.values()):,.0f}</td>" not in page, "the sum needs a machine for each"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_234, "1,234 rows"), (1_000_000, "1,000,000 rows")],
)
def test_counts_have_their_plural_and_their_commas(count, text):
    assert counted(count, "row") == text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
    ],
)
def test_a_list_of_names(names, text):
    assert listed(names, 3) == text


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
    result = estimate(DESK, graph_of(DESK, half), otherwise=lambda: Speed(1.0, "rough"))
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
    assert estimate(DESK, graph_of(DESK, moved), host="here", otherwise=lambda: rough).speed == rough
    assert estimate(DESK, graph_of(DESK, moved), host="another", otherwise=lambda: rough).speed == Speed(
        8000.0, "measured"
    )


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
    assert "no result exported yet" in text
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


CHANGES = ReportChanges(
    revision="0000000b",
    previous="0000000a",
    tasks={
        "urgency": TaskFlips(
            compared=1250,
            right_to_wrong=25,
            wrong_to_right=61,
            wrong_to_wrong=4,
            basis="TestRows",
            nearest=(Flip(row=7, change="RightToWrong", margin=0.012, before="high", after="<low>"),),
        ),
        "reply": TaskFlips(compared=200, right_to_wrong=0, wrong_to_right=3, basis="GoldenRows"),
    },
    not_compared={"topic": "the previous revision does not have it"},
)


def test_the_page_shows_which_answers_a_revision_changes():
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", render(report().model_copy(update={"changes": CHANGES}))))
    assert "Revision 0000000b against 0000000a , which was served before it" in text
    assert "urgency 1,250 25 (2.0 %) 61 4 all test rows" in text
    assert "reply 200 0 3 0 golden requests" in text
    assert "urgency: the 1 nearest row" in text
    assert "7 right → wrong high &lt;low&gt; 0.012" in text
    assert "topic was not compared: the previous revision does not have it." in text


def test_without_another_revision_the_page_has_no_such_section():
    assert "Changed answers" not in render(report())
