"""The wire format of the Triton backend."""

from __future__ import annotations

import pytest

from multitask_serving.triton.wire import MalformedRequest, Options, ServerStatus, WireError, parse_inputs


def test_a_request_comes_out_as_it_went_in() -> None:
    inputs = parse_inputs(b"aufgabe", '{"text": "顾客 😀"}'.encode(), None)
    assert (inputs.task, inputs.fields, inputs.options) == ("aufgabe", {"text": "顾客 😀"}, Options())


@pytest.mark.parametrize(
    ("task", "fields", "options", "message"),
    [
        (b"\xff", b"{}", None, "input 'task' is not UTF-8"),
        (b"t", b"\xff", None, "input 'fields' is not UTF-8"),
        (b"t", b"", None, "input 'fields' is not JSON"),
        (b"t", b"[]", None, "input 'fields' is list. Send a JSON object"),
        (b"t", b'{"text": 3}', None, "input 'fields': 'text' is int. Send text"),
        (b"t", b"{}", b"x", "input 'options' is not JSON"),
        (b"t", b"{}", b'{"steam": true}', "unknown key 'steam'. Keys: stream, sampling, cancel, status"),
        (b"t", b"{}", b'{"cancel": 1}', "'cancel' a string"),
        (b"t", b"{}", b'{"stream": 1}', "'stream' must be a boolean"),
        (b"t", b"{}", b'{"status": "yes"}', "'status' must be a boolean"),
        (b"t", b"{}", b'{"sampling": []}', "'sampling' an object"),
        (b"t", b"{}", b'{"sampling": {"heat": 1}}', "sampling.heat is not a setting. Settings: temperature"),
        (b"t", b"{}", b'{"sampling": {"seed": 1.5}}', "sampling.seed is 1.5. Send a whole number"),
        (b"t", b"{}", b'{"sampling": {"top_p": true}}', "sampling.top_p is true. Send a number"),
        (b"t", b"{}", b'{"sampling": {"stop": "."}}', 'sampling.stop is ".". Send a list of texts'),
    ],
)
def test_a_malformed_request_is_explained(task: bytes, fields: bytes, options: bytes | None, message: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_inputs(task, fields, options)
    assert message in str(caught.value)


@pytest.mark.parametrize("before", ["", "[request id: 7] ", "in ensemble 'x', "])
@pytest.mark.parametrize("after", ["", ". More words of Triton's"])
def test_an_error_is_decoded_from_inside_tritons_text(before: str, after: str) -> None:
    error = WireError("MISSING_FIELD", 'field "text" {is} missing', "fields.text")
    assert WireError.decode(before + error.encode() + after) == error


@pytest.mark.parametrize(
    "text", ["", "Exceeds maximum queue size", "mtm-error ", "mtm-error []", 'mtm-error {"code": 1}']
)
def test_other_texts_are_not_decoded(text: str) -> None:
    assert WireError.decode(text) is None


@pytest.mark.parametrize("status", [ServerStatus(0, None, "cpu"), ServerStatus(3, 0.25, "NVIDIA H100 80GB HBM3")])
def test_a_status_comes_out_as_it_went_in(status: ServerStatus) -> None:
    assert ServerStatus.decode(status.encode()) == status


@pytest.mark.parametrize("text", ["", "low", "[]", "{}", '{"in_flight": 1}', '{"in_flight": null, "idle_s": 1}'])
def test_another_answer_is_no_status(text: str) -> None:
    with pytest.raises(ValueError):
        ServerStatus.decode(text)
