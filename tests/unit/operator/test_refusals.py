"""What the operator may not read is said as long as it is so, and no longer."""

from __future__ import annotations

from multitask_kubernetes.errors import Forbidden, Request
from multitask_operator.cluster.refusals import FORGOTTEN_SECONDS, Refusals


def refused(verb, resource, namespace, name=None):
    return Forbidden(Request(verb, resource, namespace, name), 403, "Forbidden", "it is forbidden.")


SERVICES = refused("list", "services", "team")
SENTENCE = 'the operator cannot list services in namespace "team": it is forbidden; grant its role the verb list'


def test_it_lasts_since_it_was_met_first():
    refusals = Refusals()
    assert [refusals.note("team", SERVICES, now) for now in (100.0, 102.0, 110.0)] == [0.0, 2.0, 10.0]
    (sentence,) = refusals.sentences(110.0)
    assert sentence.startswith(SENTENCE)


def test_two_models_of_a_namespace_lack_the_same():
    refusals = Refusals()
    refusals.note("team", SERVICES, 1.0)
    refusals.note("other", refused("get", "namespaces", None, "other"), 1.0)
    refusals.note("team", SERVICES, 2.0)
    shown = refusals.sentences(2.0)
    assert [text.partition(":")[0] for text in shown] == [
        'the operator cannot get namespaces "other"',
        'the operator cannot list services in namespace "team"',
    ]


def test_what_could_be_read_is_no_refusal_any_more():
    refusals = Refusals()
    refusals.note("team", SERVICES, 1.0)
    refusals.clear("team")
    assert refusals.sentences(1.0) == ()
    assert refusals.note("team", SERVICES, 9.0) == 0.0


def test_a_read_that_nothing_needs_any_more_does_not_keep_the_operator_from_being_ready():
    refusals = Refusals()
    refusals.note("team", SERVICES, 1.0)
    assert refusals.sentences(1.0 + FORGOTTEN_SECONDS)
    assert refusals.sentences(1.1 + FORGOTTEN_SECONDS) == ()
    assert refusals.note("team", SERVICES, 2.0 + FORGOTTEN_SECONDS) == 0.0
