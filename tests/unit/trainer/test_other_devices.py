"""Answers that differ from the evaluation's: a fault on the same kind of device, judged by score on another."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from multitask_api.serving_io.verify import VerifiedTask, VerifyOrder
from multitask_client import Prediction
from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.export.exported import GoldenRow
from multitask_trainer.jobs.verify_revision import _compare

H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"
ROWS = 200


@dataclass
class Exported:
    """What the comparison asks of an exported result."""

    limit: float = 1e-3

    def near_tie(self, task: str) -> float:
        return self.limit


def order(*names: str) -> VerifyOrder:
    tasks = tuple(VerifiedTask(name=name, metric="Accuracy") for name in names)
    return VerifyOrder(model="a/b", revision="r", storage="s", artifact="e", tasks=tasks, gateway="g:1")


def golden(device: str | None, wrong: int = 0, margin: float = 0.5) -> list[GoldenRow]:
    """Rows whose right label is yes; the evaluation was wrong about the last ones."""
    labels = ["no" if row >= ROWS - wrong else "yes" for row in range(ROWS)]
    return [GoldenRow(n, Row({}), Answer(each, 1.0, margin, ("yes",)), device) for n, each in enumerate(labels)]


def answers(device: str, wrong: int = 0, right: int = 0, of: int = 0) -> list[Prediction]:
    """Served labels: the first ``wrong`` rows are wrong now, of the last ``of`` ones ``right`` are right now."""
    labels = ["no" if n < wrong or ROWS - of <= n < ROWS - right else "yes" for n in range(ROWS)]
    return [Prediction("t", each, None, device=device) for each in labels]


#: measured on, served on, wrong now, right now → different, told, lost
DEVICES = {
    "the same device": (H100, H100, 1, 0, 1, 0, None),
    "the same CPU": ("cpu", "cpu", 3, 3, 6, 0, None),
    "a gateway that does not say it": (H100, "", 1, 0, 1, 0, None),
    "another GPU, as good": (H100, L4, 2, 0, 0, 2, None),
    "another GPU, differences to both sides": (H100, L4, 10, 10, 0, 20, None),
    "another GPU, better": (H100, L4, 0, 8, 0, 8, None),
    "another GPU, worse": (H100, L4, 6, 0, 6, 6, 0.03),
    "another GPU, worse on balance": (H100, L4, 12, 2, 14, 14, 0.05),
    "a CPU instead of a GPU": (H100, "cpu", 1, 1, 0, 2, None),
    "an evaluation that recorded none": (None, L4, 2, 0, 2, 0, None),
    "no difference": (H100, L4, 0, 0, 0, 0, None),
}


@pytest.mark.parametrize("sentence", DEVICES)
def test_a_difference_is_a_fault_on_the_same_device_and_judged_by_score_on_another(sentence: str):
    measured, served, wrong, right, different, told, lost = DEVICES[sentence]
    exported = Exported()
    report = _compare(
        order("urgency", "stance"),
        exported,  # type: ignore[arg-type]
        {"urgency": golden(measured, wrong=right), "stance": golden(measured)},
        {"urgency": answers(served, wrong, right, right), "stance": answers(served)},
    )
    assert report.result.tasks["urgency"].different == report.result.different == different
    assert report.result.tasks["urgency"].equal == ROWS - wrong - right
    assert report.result.tasks["stance"].equal == ROWS
    if not told:
        assert report.other_device is None
        return
    assert report.other_device is not None
    assert report.other_device.tasks == {"urgency": told}
    assert report.other_device.served_on == (served,)
    assert report.other_device.measured_on == (measured,)
    assert report.other_device.lost == ({} if lost is None else {"urgency": pytest.approx(lost)})


def test_near_ties_need_no_other_device():
    exported = Exported()
    report = _compare(
        order("urgency"),
        exported,  # type: ignore[arg-type]
        {"urgency": golden(H100, margin=1e-5)},
        {"urgency": answers(L4, 5)},
    )
    assert (report.result.near_ties, report.result.different, report.other_device) == (5, 0, None)


def test_a_report_without_it_is_read_by_an_older_release():
    exported = Exported()
    report = _compare(
        order("urgency"),
        exported,  # type: ignore[arg-type]
        {"urgency": golden(H100)},
        {"urgency": answers(L4)},
    )
    assert "otherDevice" not in report.model_dump_json(by_alias=True, exclude_none=True)
