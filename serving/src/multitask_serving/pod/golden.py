"""Whether a server may take traffic, by its answers to golden requests. Pure.

A correct server gives the answers of the evaluation, but for near ties, where it computes on the same kind of device.
On another kind of GPU sums round differently, and answers may differ by more than a near tie without any fault. Such a
server must not wait for ever: its differences are reported, and the Job that verifies the revision counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multitask_api.errors import MultitaskError
from multitask_serving.triton.probe import GoldenRequest, Mismatch

_SHOWN = 3


class WrongAnswers(MultitaskError):
    """The server's answers differ from those of the evaluated model."""


@dataclass(frozen=True)
class GoldenCheck:
    """The outcome: ``different`` of ``compared`` answers differ. ``measured_on``: the devices of the evaluation."""

    compared: int
    different: int
    device: str
    measured_on: tuple[str, ...]
    summary: str

    def to_json(self) -> dict[str, object]:
        """The outcome as JSON-ready data."""
        counts = {"compared": self.compared, "different": self.different}
        return counts | {"device": self.device, "measuredOn": list(self.measured_on), "summary": self.summary}


def judge(golden: Sequence[GoldenRequest], mismatches: Sequence[Mismatch], device: str) -> GoldenCheck:
    """The check of a server that computes on ``device``. Raises `WrongAnswers` if it must not take traffic.

    A request without an answer is always a fault. A request whose device was not recorded counts as one of another
    kind of device.
    """
    faults = [mismatch for mismatch in mismatches if not mismatch.answered or mismatch.golden.device == device]
    measured_on = tuple(sorted({request.device or "an unrecorded device" for request in golden}))
    if faults:
        shown = "; ".join(str(mismatch) for mismatch in faults[:_SHOWN])
        raise WrongAnswers(
            f"{len(faults)} of {len(golden)} golden requests have other answers than in the evaluation, on the same "
            f"device ({device}): {shown}. The weights or the libraries of this image are not those that were measured"
        )
    return GoldenCheck(
        compared=len(golden),
        different=len(mismatches),
        device=device,
        measured_on=measured_on,
        summary=_summary(len(golden), mismatches, device, measured_on),
    )


def _summary(compared: int, mismatches: Sequence[Mismatch], device: str, measured_on: Sequence[str]) -> str:
    where = f"computed on {device}, measured on {', '.join(measured_on)}"
    if not mismatches:
        return f"{compared} golden requests have the answers of the evaluation ({where})"
    shown = "; ".join(str(mismatch) for mismatch in mismatches[:_SHOWN])
    return (
        f"{len(mismatches)} of {compared} golden requests have other answers than in the evaluation. That is allowed "
        f"on another kind of device ({where}): {shown}"
    )
