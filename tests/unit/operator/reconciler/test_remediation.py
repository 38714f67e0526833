"""A message is followed by what helps, however long it is and whatever script it is in."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.blockers import REMEDIATION, with_remediation, without_remediation
from multitask_operator.reconciler.conditions import MESSAGE_BYTES


@pytest.mark.parametrize("reason", REMEDIATION)
def test_the_advice_can_be_taken_off_the_message_again(reason):
    message = with_remediation(reason, "Pod p waits.")
    assert message == f"Pod p waits; {REMEDIATION[reason]}"
    assert without_remediation(reason, message) == "Pod p waits"


@pytest.mark.parametrize("character", ["x", "ß", "日", "\U0001f525"])
def test_a_message_that_is_too_long_is_cut_and_its_advice_stays(character):
    message = with_remediation("DataNotFound", character * 5000)
    assert MESSAGE_BYTES - 4 < len(message.encode()) <= MESSAGE_BYTES
    assert message.endswith(f"…; {REMEDIATION['DataNotFound']}")


def test_a_message_that_names_the_remedy_itself_gets_no_other():
    assert with_remediation("ClaimMissing", "there is none; create it") == "there is none; create it"
