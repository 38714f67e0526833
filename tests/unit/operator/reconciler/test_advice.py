"""What helps stands behind a reason, however long that is and whatever script it is in."""

from __future__ import annotations

import pytest

from multitask_operator.planner.status import MESSAGE_BYTES
from multitask_operator.reconciler.advice import ADVICE, advised, without_advice


@pytest.mark.parametrize("reason", ADVICE)
def test_the_advice_can_be_told_from_the_message(reason):
    said = advised(reason, "Pod p waits.")
    assert said == f"Pod p waits; {ADVICE[reason]}"
    assert without_advice(reason, said) == "Pod p waits"


@pytest.mark.parametrize("character", ["x", "ß", "日", "\U0001f525"])
def test_of_a_message_that_is_too_long_the_end_goes_and_not_the_advice(character):
    said = advised("DataNotFound", character * 5000)
    assert MESSAGE_BYTES - 4 < len(said.encode()) <= MESSAGE_BYTES
    assert said.endswith(f"…; {ADVICE['DataNotFound']}")


def test_a_reason_that_says_itself_what_helps_gets_none():
    assert advised("ClaimMissing", "there is none; create it") == "there is none; create it"
