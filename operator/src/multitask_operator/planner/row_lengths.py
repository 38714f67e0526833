"""The tokens of the rows of a training: as measured, else by the length of their text, else at the most. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median

from multitask_api.estimates.row_tokens import BYTES_PER_TOKEN
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import RowSample
from multitask_api.stages import Graph
from multitask_operator.formatting import listed
from multitask_operator.planner.results import training_result_of
from multitask_operator.planner.stage_memory import Training


@dataclass(frozen=True)
class RowLengths:
    """The mean tokens of rows. ``measured``: of those that stages have trained on; None before any did.

    ``by_text``: task → by the length of its text. ``unread``: the tasks whose text nobody has read.
    """

    max_length: int
    measured: float | None
    by_text: Mapping[str, float]
    unread: tuple[str, ...]

    @classmethod
    def of(cls, model: MultiTaskModel, graph: Graph, samples: Mapping[str, RowSample]) -> RowLengths:
        """``samples``: task → what was read of its data."""
        batch, most = model.spec.training.batch_rows, model.spec.training.max_length
        trained = [result for node in graph.nodes if (result := training_result_of(node)) is not None]
        measured = [item.tokens / (item.steps * batch) for item in trained if item.steps and item.tokens]
        by_text = {name: min(float(most), sample.tokens) for name, sample in samples.items()}
        unread = tuple(task.name for task in model.spec.tasks if task.name not in by_text)
        return cls(most, median(measured) if measured else None, by_text, unread)

    def mean(self, training: Training) -> float:
        """Of the rows of ``training``, as many of each task; sequences of pre-training are always full."""
        if training.text or not training.tasks:
            return self.max_length
        if self.measured is not None:
            return self.measured
        return fmean(self.by_text.get(task.name, self.max_length) for task in training.tasks)

    def __str__(self) -> str:
        """Where the lengths are from, for a person."""
        if self.measured is not None:
            return "rows as long as those that stages have trained on"
        at_most = "at training.maxLength, the most they can have, because their data is not read here"
        if not self.by_text:
            return f"all rows counted {at_most}"
        text = (
            f"estimated from the text of rows and prompts, {BYTES_PER_TOKEN} characters a token (bytes of UTF-8), at"
            " most training.maxLength a row"
        )
        return f"{text}; rows of {listed(self.unread)} counted {at_most}" if self.unread else text
