"""Which export is served, for every result that verify may have for the newest one."""

from __future__ import annotations

import pytest

from multitask_api.stage_io.manifest import StageFailure
from multitask_operator.local.promotion import Check, Published, next_published, promoted_export, verify_outcome
from support.graph_builders import all_done, failed, graph_of, model, task

DESK = model(task("urgency"))
OLD, OTHER, NEW = (("export", letter * 12) for letter in "abc")

RULE = [
    ("passed, it is served", (OLD, OLD), Check.PASSED, (NEW, NEW)),
    ("passed, it replaces an unverified one", (OTHER, OLD), Check.PASSED, (NEW, NEW)),
    ("pending, the one before is still served", (OLD, OLD), Check.PENDING, (OLD, OLD)),
    ("pending and served already, it is still served", (NEW, OLD), Check.PENDING, (NEW, OLD)),
    ("skipped, it is served unverified", (OLD, OLD), Check.SKIPPED, (NEW, OLD)),
    ("skipped, and verified before it was lost and made again", (NEW, NEW), Check.SKIPPED, (NEW, None)),
    ("failed, the one before is still served", (OLD, OLD), Check.FAILED, (OLD, OLD)),
    ("failed, the first one is not served", (None, None), Check.FAILED, (None, None)),
    ("failed, the last verified one is served again", (NEW, OLD), Check.FAILED, (OLD, OLD)),
    ("failed, and there is no verified one", (NEW, None), Check.FAILED, (None, None)),
    ("failed, though it passed before", (NEW, NEW), Check.FAILED, (None, None)),
    ("failed, another unverified one is still served", (OTHER, OLD), Check.FAILED, (OTHER, OLD)),
]


@pytest.mark.parametrize(("sentence", "before", "check", "after"), RULE, ids=[row[0] for row in RULE])
def test_what_is_published(sentence, before, check, after):
    assert next_published(Published(*before), NEW, check) == Published(*after)
    assert next_published(Published(*after), NEW, check) == Published(*after), "deciding twice changes nothing"


def test_served_is_unverified_unless_it_is_the_verified_one():
    table = [((None, None), False), ((NEW, NEW), False), ((NEW, OLD), True), ((NEW, None), True), ((None, OLD), False)]
    for exports, expected in table:
        assert Published(*exports).unverified is expected


OUTCOMES = [
    # kind of an earlier failure of verify, whether it failed in this run, whether it is wanted, expected outcome
    (None, False, True, Check.PENDING),
    (None, False, False, Check.SKIPPED),
    (None, True, True, Check.FAILED),
    ("UserError", False, False, Check.FAILED),
    ("Fault", False, True, Check.FAILED),
    ("Retryable", False, False, Check.SKIPPED),
    ("Retryable", True, True, Check.FAILED),
]


@pytest.mark.parametrize(("kind", "now", "wanted", "expected"), OUTCOMES)
def test_the_outcome_of_verify(kind, now, wanted, expected):
    graph = graph_of(DESK, all_done(DESK, until="verify"))
    last_failure = StageFailure(stage="verify", kind=kind, message="it differs") if kind else None
    failures = (failed(graph["verify"]),) if now else (failed(graph["ledger"]),)
    assert verify_outcome(graph, failures, last_failure, wanted=wanted) is expected


def test_a_passed_verify_outweighs_what_failed_before():
    graph = graph_of(DESK, all_done(DESK, until="ledger"))
    last_failure = StageFailure(stage="verify", kind="Fault", message="it broke")
    assert verify_outcome(graph, (), last_failure, wanted=False) is Check.PASSED


def test_an_export_that_is_not_there_or_not_promoted_is_not_published():
    assert promoted_export(graph_of(DESK, all_done(DESK, until="export"))) is None
    assert promoted_export(graph_of(DESK, all_done(DESK, export={"promoted": False}))) is None
    graph = graph_of(DESK, all_done(DESK))
    assert promoted_export(graph) == ("export", graph["export"].digest)
