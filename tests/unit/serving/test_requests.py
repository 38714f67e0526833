"""What the gateway refuses before any backend is asked, and what it asks for."""

from __future__ import annotations

import pytest

from multitask_api.routes import Backend, RoutedTask
from multitask_serving.client import Sampling
from multitask_serving.client.answers import predict_request
from multitask_serving.gateway.faults import InvalidRequest
from multitask_serving.gateway.requests import check_fields, options_of
from multitask_serving.triton.wire import Options, parse_inputs

BACKENDS = (Backend(service="x", port=1, revision="r"),)
PAIR = RoutedTask(name="pair", type="Classification", fields=("first", "second"), labels=("a", "b"), backends=BACKENDS)
REPLY = RoutedTask(name="reply", type="Generation", fields=("text",), backends=BACKENDS)


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"first": "", "second": ""}, {}),
        ({"first": "x"}, {"fields.second": "is missing; task 'pair' takes first, second"}),
        (
            {},
            {
                "fields.first": "is missing; task 'pair' takes first, second",
                "fields.second": "is missing; task 'pair' takes first, second",
            },
        ),
        (
            {"first": "x", "second": "y", "third": "z"},
            {"fields.third": "is not a field of this task; task 'pair' takes first, second"},
        ),
    ],
)
def test_every_wrong_field_is_named(fields: dict[str, str], problems: dict[str, str]) -> None:
    found = {}
    try:
        check_fields(PAIR, fields)
    except InvalidRequest as error:
        found = {problem.path: problem.message for problem in error.violations()}
    assert found == problems


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (None, {}),
        (Sampling(), {}),
        (Sampling(temperature=0.0), {"temperature": 0.0}),
        (
            Sampling(max_new_tokens=5, temperature=0.5, top_p=0.25, seed=2**63, stop=("\n", "。")),
            {"max_new_tokens": 5, "temperature": 0.5, "top_p": 0.25, "seed": 2**63, "stop": ("\n", "。")},
        ),
    ],
)
def test_only_the_sampling_that_was_set_travels(sampling: Sampling | None, expected: dict[str, object]) -> None:
    request = predict_request("reply", {"text": "x"}, {}, sampling)
    options = options_of(REPLY, request, stream=True)
    assert options == Options(stream=True, sampling=expected)
    assert parse_inputs(b"reply", b"{}", options.encode().encode()).options == options


def test_sampling_of_a_label_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="sampling: task 'pair' gives a label; leave sampling out"):
        options_of(PAIR, predict_request("pair", {}, {}, Sampling()), stream=False)
