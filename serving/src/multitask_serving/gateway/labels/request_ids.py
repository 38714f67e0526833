"""The ids of answers. Pure.

An id says by itself what was answered, and is signed with a key that all gateways share. So no gateway has to remember
its answers, and a label may come hours later, to any gateway, also after all of them were restarted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import NamedTuple

from multitask_api.errors import Problem, UserError
from multitask_api.resource.tasks import comparable_label
from multitask_serving.gateway.errors import InvalidRequest

SHORTEST_KEY = 32
"""Bytes of a key."""
LONGEST_ID = 1024
"""Characters of an id. Names of tasks and revisions make it some 200 long."""

_VERSION = 1
_NONCE = 8
_ANSWER = 8
_SIGNATURE = 16
_SEPARATOR = "\0"


class InvalidLabelKey(UserError):
    """The file with the key of the request ids cannot be used."""


def read_key(path: Path) -> bytes:
    """The key in a file, without white space around it. Raises `InvalidLabelKey`."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise InvalidLabelKey(f"the key of request ids, {path}, cannot be read: {error.strerror}") from error
    if len(key) < SHORTEST_KEY:
        raise InvalidLabelKey(
            f"the key of request ids, {path}, has {len(key)} bytes; make one of at least {SHORTEST_KEY}, for example "
            "with `openssl rand -hex 32`"
        )
    return key


class AnsweredRequest(NamedTuple):
    """What an id says. ``is_sample``: the caller had not asked for the revision, so the answer stands for its traffic.

    ``answer``: a digest of the label, which is no secret but may be long. ``nonce``: differs with every answer.
    """

    task: str
    revision: str
    window: str
    is_sample: bool
    answer: bytes
    nonce: bytes


class RequestIds:
    """Makes and reads ids with a ``key`` of at least `SHORTEST_KEY` bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, task: str, revision: str, window: str, label: str, *, is_sample: bool) -> str:
        """The id of an answer ``label`` to the task with this full name."""
        names = _SEPARATOR.join((task, revision, window)).encode()
        head = bytes((_VERSION, is_sample)) + secrets.token_bytes(_NONCE) + label_digest(label)
        return base64.urlsafe_b64encode(head + names + self._signature(head + names)).rstrip(b"=").decode()

    def read(self, request_id: str) -> AnsweredRequest:
        """What an id says. Raises `InvalidRequest` for one that no gateway with this key has made."""
        content = self._content(request_id)
        if content is None:
            problem = (
                "is not an id that a gateway of this installation gave; send `request_id` of a response as it is. "
                "A generation task's response has none"
            )
            raise InvalidRequest([Problem("request_id", problem)])
        head, names = content[: 2 + _NONCE + _ANSWER], content[2 + _NONCE + _ANSWER :]
        task, revision, window = names.decode().split(_SEPARATOR)
        return AnsweredRequest(task, revision, window, bool(head[1]), head[2 + _NONCE :], head[2 : 2 + _NONCE])

    def _content(self, request_id: str) -> bytes | None:
        """What was signed; None: the id is not signed with this key."""
        if len(request_id) > LONGEST_ID:
            return None
        try:
            data = base64.b64decode(request_id + "=" * (-len(request_id) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        content, signature = data[:-_SIGNATURE], data[-_SIGNATURE:]
        is_genuine = hmac.compare_digest(signature, self._signature(content))
        return content if is_genuine and content[:1] == bytes((_VERSION,)) else None

    def _signature(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")[:_SIGNATURE]


def label_digest(label: str) -> bytes:
    """Equal for equal labels. As in training data, spaces around a label and its form of Unicode do not count."""
    return hashlib.blake2b(comparable_label(label.strip()).encode(), digest_size=_ANSWER).digest()
