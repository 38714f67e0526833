"""Which export is served, for everything that verify may say of the newest one."""

from __future__ import annotations

import pytest

from multitask_api.stage_io.manifest import StageFailure
from multitask_operator.local.promotion import Check, Published, check_of, promoted_export, published
from support.graph_builders import all_done, failed, graph_of, model, task

DESK = model(task("urgency"))
OLD, OTHER, NEW = (("export", letter * 12) for letter in "abc")

RULE = [
    ("passed, it is served", (OLD, OLD), Check.PASSED, (NEW, NEW)),
    ("passed, it replaces an unverified one", (OTHER, OLD), Check.PASSED, (NEW, NEW)),
    ("to be checked, the one before goes on", (OLD, OLD), Check.PENDING, (OLD, OLD)),
    ("to be checked and served already, it goes on", (NEW, OLD), Check.PENDING, (NEW, OLD)),
    ("left out, it is served unverified", (OLD, OLD), Check.LEFT_OUT, (NEW, OLD)),
    ("left out, and verified before it was lost and made again", (NEW, NEW), Check.LEFT_OUT, (NEW, None)),
    ("failed, the one before goes on", (OLD, OLD), Check.FAILED, (OLD, OLD)),
    ("failed, the first one is not served", (None, None), Check.FAILED, (None, None)),
    ("failed, the last verified one comes back", (NEW, OLD), Check.FAILED, (OLD, OLD)),
    ("failed, and no verified one is there", (NEW, None), Check.FAILED, (None, None)),
    ("failed, though it passed before", (NEW, NEW), Check.FAILED, (None, None)),
    ("failed, another unverified one goes on", (OTHER, OLD), Check.FAILED, (OTHER, OLD)),
]


@pytest.mark.parametrize(("sentence", "before", "check", "after"), RULE, ids=[row[0] for row in RULE])
def test_verify(sentence, before, check, after):
    assert published(Published(*before), NEW, check) == Published(*after)
    assert published(Published(*after), NEW, check) == Published(*after), "deciding twice changes nothing"


def test_served_is_unverified_unless_it_is_the_verified_one():
    table = [((None, None), False), ((NEW, NEW), False), ((NEW, OLD), True), ((NEW, None), True), ((None, OLD), False)]
    for found, expected in table:
        assert Published(*found).unverified is expected


OUTCOMES = [
    # kind of the failure that an earlier run left, whether verify failed now, whether it is wanted, what is known
    (None, False, True, Check.PENDING),
    (None, False, False, Check.LEFT_OUT),
    (None, True, True, Check.FAILED),
    ("UserError", False, False, Check.FAILED),
    ("Fault", False, True, Check.FAILED),
    ("Retryable", False, False, Check.LEFT_OUT),
    ("Retryable", True, True, Check.FAILED),
]


@pytest.mark.parametrize(("kind", "now", "wanted", "expected"), OUTCOMES)
def test_what_is_known_of_an_export(kind, now, wanted, expected):
    graph = graph_of(DESK, all_done(DESK, until="verify"))
    remembered = StageFailure(stage="verify", kind=kind, message="it differs") if kind else None
    failures = (failed(graph["verify"]),) if now else (failed(graph["ledger"]),)
    assert check_of(graph, failures, remembered, wanted=wanted) is expected


def test_a_passed_verify_outweighs_what_failed_before():
    graph = graph_of(DESK, all_done(DESK, until="ledger"))
    remembered = StageFailure(stage="verify", kind="Fault", message="it broke")
    assert check_of(graph, (), remembered, wanted=False) is Check.PASSED


def test_an_export_that_is_not_there_or_not_promoted_is_not_published():
    assert promoted_export(graph_of(DESK, all_done(DESK, until="export"))) is None
    assert promoted_export(graph_of(DESK, all_done(DESK, export={"promoted": False}))) is None
    graph = graph_of(DESK, all_done(DESK))
    assert promoted_export(graph) == ("export", graph["export"].digest)
