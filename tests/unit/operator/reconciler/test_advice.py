"""What helps stands behind a reason, however long that is and whatever script it is in."""

from __future__ import annotations

import pytest

from multitask_operator.planner.status import MESSAGE_BYTES
from multitask_operator.reconciler.remediation import REMEDIATION, with_remediation_for, without_remediation


@pytest.mark.parametrize("reason", REMEDIATION)
def test_the_advice_can_be_told_from_the_message(reason):
    said = with_remediation_for(reason, "Pod p waits.")
    assert said == f"Pod p waits; {REMEDIATION[reason]}"
    assert without_remediation(reason, said) == "Pod p waits"


@pytest.mark.parametrize("character", ["x", "ß", "日", "\U0001f525"])
def test_of_a_message_that_is_too_long_the_end_goes_and_not_the_advice(character):
    said = with_remediation_for("DataNotFound", character * 5000)
    assert MESSAGE_BYTES - 4 < len(said.encode()) <= MESSAGE_BYTES
    assert said.endswith(f"…; {REMEDIATION['DataNotFound']}")


def test_a_reason_that_says_itself_what_helps_gets_none():
    assert with_remediation_for("ClaimMissing", "there is none; create it") == "there is none; create it"
