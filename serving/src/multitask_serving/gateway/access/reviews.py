"""ServiceAccount tokens, checked by the API server (TokenReview).

A pod asks for such a token with a projected volume whose audience is ``multitask-gateway``. The Job that verifies a
revision has one. A token for another audience is refused, so nobody can use a pod's own token of the API server here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from multitask_api.serving_io.names import GATEWAY_AUDIENCE
from multitask_api.types import JsonDict, JsonObject

_USER = "system:serviceaccount:"
_KNOWN_S, _REFUSED_S = 60.0, 10.0
"""How long an answer counts: a deleted ServiceAccount may call so much longer; a wrong token is not asked for again."""
_REMEMBERED, _AT_ONCE = 1024, 8

Review = Callable[[JsonDict], Awaitable[JsonObject]]
"""Creates a TokenReview and returns it with its status."""


class TokenReviews:
    """The ServiceAccounts that tokens belong to; the API server is asked once a minute for each token."""

    def __init__(self, review: Review, clock: Callable[[], float] = time.monotonic) -> None:
        self._review = review
        self._clock = clock
        self._answers: OrderedDict[bytes, tuple[float, asyncio.Task[str | None]]] = OrderedDict()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def service_account(self, token: str) -> str | None:
        """``NAMESPACE/NAME`` of the token's ServiceAccount; None if the token is not valid here.

        Raises what the call of the API server raises.
        """
        if not is_for_gateway(token):
            return None
        digest = hashlib.sha256(token.encode()).digest()
        asked, answer = self._answers.get(digest, (0.0, None))
        if answer is None or self._is_old(asked, answer):
            answer = asyncio.ensure_future(self._ask(token))
            self._answers[digest] = (self._clock(), answer)
            self._answers.move_to_end(digest)
            while len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        return await asyncio.shield(answer)  # others may wait for the same answer

    def _is_old(self, asked: float, answer: asyncio.Task[str | None]) -> bool:
        if not answer.done():
            return False
        if answer.cancelled() or answer.exception() is not None:
            return True
        return self._clock() - asked >= (_REFUSED_S if answer.result() is None else _KNOWN_S)

    async def _ask(self, token: str) -> str | None:
        async with self._slots:
            return reviewed_account(await self._review(token_review(token)))


def token_review(token: str) -> JsonDict:
    """The object that asks the API server whose token it is."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [GATEWAY_AUDIENCE]},
    }


def reviewed_account(review: JsonObject) -> str | None:
    """``NAMESPACE/NAME`` of the ServiceAccount in the answer; None if the token is not a ServiceAccount's for us."""
    status = review.get("status") or {}
    user = (status.get("user") or {}).get("username") or ""
    namespace, _, name = user.removeprefix(_USER).partition(":")
    known = status.get("authenticated") is True and GATEWAY_AUDIENCE in (status.get("audiences") or ())
    return f"{namespace}/{name}" if known and user.startswith(_USER) and namespace and name else None


def is_for_gateway(token: str) -> bool:
    """Whether ``token`` says of itself that it is for the gateway. The API server is asked about no other ones."""
    parts = token.split(".")
    if len(parts) != 3:
        return False
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return False
    audience = claims.get("aud") if isinstance(claims, dict) else None
    return audience == GATEWAY_AUDIENCE or (isinstance(audience, list) and GATEWAY_AUDIENCE in audience)
