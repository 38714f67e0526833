"""ServiceAccount tokens: which are asked about, how often, and whose they are."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from multitask_api.serving_io.names import GATEWAY_AUDIENCE as AUDIENCE
from multitask_serving.gateway.access.reviews import TokenReviews, is_for_gateway, reviewed_account


def token(claims: object = None, *, signature: str = "s") -> str:
    payload = json.dumps({"aud": [AUDIENCE]} if claims is None else claims).encode()
    return f"e30.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.{signature}"


def answer(user: str = "system:serviceaccount:team-a:desk-stages", **status: Any) -> dict[str, Any]:
    return {"status": {"authenticated": True, "audiences": [AUDIENCE], "user": {"username": user}, **status}}


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class ApiServer:
    """Answers as it is told to, and counts."""

    def __init__(self, review: dict[str, Any] | None = None) -> None:
        self.review, self.asked, self.fails = review or answer(), [], False

    async def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        await asyncio.sleep(0)
        if self.fails:
            raise OSError("away")
        return self.review


@pytest.mark.parametrize(
    ("sentence", "given", "expected"),
    [
        ("for the gateway", token(), True),
        ("for the gateway alone", token({"aud": AUDIENCE}), True),
        ("for others too", token({"aud": ["x", AUDIENCE]}), True),
        ("for the API server", token({"aud": ["https://kubernetes.default.svc"]}), False),
        ("for nobody", token({}), False),
        ("an API key", "k" * 40, False),
        ("no JSON", "e30.AAAA.s", False),
        ("a list", token([AUDIENCE]), False),
        ("not base64", "e30.ä.s", False),
        ("very long", "a." * 5000, False),
    ],
)
async def test_the_api_server_is_asked_only_about_tokens_for_the_gateway(
    sentence: str, given: str, expected: bool
) -> None:
    server = ApiServer()
    assert is_for_gateway(given) is expected
    assert await TokenReviews(server).service_account(given) == ("team-a/desk-stages" if expected else None)
    assert len(server.asked) == expected


@pytest.mark.parametrize(
    ("sentence", "review", "account"),
    [
        ("a ServiceAccount", answer(), "team-a/desk-stages"),
        ("one that is not authenticated", answer(authenticated=False), None),
        ("one whose token is for others", answer(audiences=["x"]), None),
        ("an API server that knows no audiences", answer(audiences=None), None),
        ("a person", answer("jane"), None),
        ("a node", answer("system:node:a"), None),
        ("a name without namespace", answer("system:serviceaccount:a"), None),
        ("a refusal", {"status": {"error": "expired"}}, None),
        ("no status", {}, None),
    ],
)
def test_whose_token_it_is(sentence: str, review: dict[str, Any], account: str | None) -> None:
    assert reviewed_account(review) == account


async def test_the_token_and_the_audience_are_sent() -> None:
    server = ApiServer()
    await TokenReviews(server).service_account(token())
    (body,) = server.asked
    assert (body["apiVersion"], body["kind"]) == ("authentication.k8s.io/v1", "TokenReview")
    assert body["spec"] == {"token": token(), "audiences": ["multitask-gateway"]}


async def test_an_answer_counts_for_a_minute_and_a_refusal_for_ten_seconds() -> None:
    clock, server = Clock(), ApiServer()
    reviews = TokenReviews(server, clock)
    for seconds, asked in ((0, 1), (59, 1), (2, 2)):
        clock.now += seconds
        assert await reviews.service_account(token()) == "team-a/desk-stages"
        assert len(server.asked) == asked
    server.review = answer(authenticated=False)
    for seconds, asked in ((60, 3), (9, 3), (2, 4)):
        clock.now += seconds
        assert await reviews.service_account(token()) is None
        assert len(server.asked) == asked


async def test_calls_at_once_ask_once_and_one_that_is_cancelled_does_not_disturb_the_others() -> None:
    server = ApiServer()
    reviews = TokenReviews(server)
    first, *others = [asyncio.ensure_future(reviews.service_account(token())) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == ["team-a/desk-stages"] * 4
    assert len(server.asked) == 1


async def test_a_failure_is_not_remembered() -> None:
    server = ApiServer()
    reviews = TokenReviews(server)
    server.fails = True
    with pytest.raises(OSError, match="away"):
        await reviews.service_account(token())
    server.fails = False
    assert await reviews.service_account(token()) == "team-a/desk-stages"


async def test_what_is_remembered_is_bounded() -> None:
    server = ApiServer()
    reviews = TokenReviews(server)
    for number in range(1200):
        await reviews.service_account(token(signature=str(number)))
    assert len(reviews._answers) == 1024
