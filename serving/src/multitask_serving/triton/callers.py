"""The way back to a caller, and what keeps a broken one from harming the others. Knows nothing of Triton."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from multitask_serving.engine.answers import Request
from multitask_serving.triton import wire

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """One response: ``text`` is the label or the text since the last part; ``scores`` is empty for a generation."""

    text: str
    scores: dict[str, float]
    finish_reason: str = ""


class Sender(Protocol):
    """The way back to one caller. Exactly one last message goes through it: a final part, or a failure."""

    def send(self, part: Part, *, final: bool) -> None:
        """Pass a part on."""

    def fail(self, error: wire.WireError) -> None:
        """Say what is wrong, as the last message."""

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request and the way back to its caller."""

    inputs: wire.Inputs
    sender: Sender

    @property
    def request(self) -> Request:
        """What the engine takes."""
        return Request(self.inputs.task, self.inputs.fields)


class Caller:
    """A call whose sender may raise: that ends this call alone. Nothing is sent after the last message."""

    def __init__(self, call: Call) -> None:
        self.inputs = call.inputs
        self.request = call.request
        self._sender = call.sender
        self._ended = False

    def send(self, part: Part, *, final: bool) -> None:
        """Pass a part on, if the caller is still there."""
        if self._ended:
            return
        try:
            self._sender.send(part, final=final)
        except Exception as error:  # noqa: BLE001 - whatever breaks here is one caller's; others share the thread
            self._broken(error)
        else:
            self._ended = final

    def fail(self, error: wire.WireError) -> None:
        """Say what is wrong, as the last message."""
        if not self._ended:
            self._ended = True
            tell(self._sender, error)

    def is_gone(self) -> bool:
        """Whether nobody waits any more. A caller who cancelled gets the last message now."""
        if self._ended:
            return True
        try:
            cancelled = self._sender.is_cancelled()
        except Exception as error:  # noqa: BLE001 - as above
            self._broken(error)
            return True
        if cancelled:
            log.info("task %r: cancelled by the caller", self.inputs.task)
            self.fail(wire.WireError(wire.CANCELLED, "the caller cancelled the request"))
        return cancelled

    def _broken(self, error: Exception) -> None:
        log.error("task %r: an answer could not be sent", self.inputs.task, exc_info=error)
        self.fail(wire.WireError(wire.INTERNAL, f"the answer could not be sent: {type(error).__name__}: {error}"))


def tell(sender: Sender, error: wire.WireError) -> None:
    """Send a last message; one that cannot be sent is logged, for nobody is left to hear of it."""
    try:
        sender.fail(error)
    except Exception:
        log.exception("an error could not be sent: %s", error.message)
