"""The gateway's checks of a request, and the options it sends to a backend."""

from __future__ import annotations

import pytest

from multitask_api.routes import Backend, RoutedTask
from multitask_client import Sampling
from multitask_client.messages import predict_request
from multitask_serving.gateway.errors import InvalidRequest
from multitask_serving.gateway.validation import check_fields, wire_options
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
    violations = {}
    try:
        check_fields(PAIR, fields)
    except InvalidRequest as error:
        violations = {problem.path: problem.message for problem in error.violations()}
    assert violations == problems


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
def test_only_the_sampling_options_set_are_sent(sampling: Sampling | None, expected: dict[str, object]) -> None:
    request = predict_request("reply", {"text": "x"}, {}, sampling)
    options = wire_options(REPLY, request, stream=True)
    assert options == Options(stream=True, sampling=expected)
    assert parse_inputs(b"reply", b"{}", options.encode().encode()).options == options


def test_sampling_options_for_a_classification_task_are_rejected() -> None:
    with pytest.raises(InvalidRequest, match="sampling: task 'pair' is a classification task; leave sampling out"):
        wire_options(PAIR, predict_request("pair", {}, {}, Sampling()), stream=False)
