"""Chooses how a base model is run, by testing it: with masks where all layers obey them, else row by row.

The ways are tried from the fastest to the most careful; the first one whose answers are those of plain forward passes
is taken. A model that fits none is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from multitask_api.bundle import ForwardPath
from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.model.backbone import Backbone
from multitask_trainer.base_model.checks.gradients import has_partial_gradients
from multitask_trainer.base_model.checks.rows import TOLERANCE, BatchTests
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COLUMN_WINDOWS = ("window_size", "attention_window_size")
"""Windows that layers apply to columns whatever the mask says: right for rows, wrong for label tries."""


@dataclass(frozen=True)
class PathChoice:
    """The path, and in a sentence why."""

    path: ForwardPath
    reason: str


def choose_path(model: PreTrainedModel, tokens: Sequence[int]) -> PathChoice:
    """Test ``model`` (fp32) with a few ``tokens`` of text (see `BatchTests`); about a dozen short forward passes.

    Raises `StageError` for a model that gives wrong answers in every way, or whose logits are not its head's.
    """
    attention = _attention(model)
    tests = BatchTests(model, tokens)
    try:
        Backbone.of(model)
    except InvalidBundle as error:
        raise StageError(f"baseModel: {error}; use a decoder such as Llama, Qwen, Gemma or Granite") from error
    _check(
        tests.head(),
        f"{type(model).__name__} changes its logits after the output head in a way that is not known here",
    )
    masked = ForwardPath(attention=attention, partial_gradients=has_partial_gradients(model, tokens))
    failed = _masks_fail(model, tests, masked)
    if failed is None:
        return PathChoice(masked, "all layers obey attention masks")
    return _row_path(model, tests, masked, failed)


def _masks_fail(model: PreTrainedModel, tests: BatchTests, path: ForwardPath) -> str | None:
    """What goes wrong with masks; None if nothing does."""
    config = model.config.get_text_config()
    window = next((name for name in _COLUMN_WINDOWS if getattr(config, name, None)), None)
    if window is not None:
        return f"windows are fixed to columns ({window})"
    with tests.short_windows() as windowed:
        if windowed and not _right(tests.pack(), tests.labels(path), tests.cached(path)):
            return "layers with a window do not obey attention masks"
    for name, test in (
        ("two rows in one sequence change each other", tests.pack),
        ("labels behind one prompt change each other", lambda: tests.labels(path)),
        ("a plain cache gives other answers", lambda: tests.cached(path)),
        ("a row changes beside a longer one", tests.right_padding),
    ):
        if not _right(test()):
            return name
    return None


def _row_path(model: PreTrainedModel, tests: BatchTests, masked: ForwardPath, reason: str) -> PathChoice:
    """The fastest way without masks: states of padded prompts, of prompts of equal length, or of one at a time."""
    changes = {"isolation": "Rows", "labels": "PromptState", "right_padding": _right(tests.right_padding())}
    padded = masked.model_copy(update=changes)
    equal = padded.model_copy(update={"batches": "EqualLengths"})
    single = padded.model_copy(update={"batches": "SingleRows"})
    for path, prompts, words in (
        (padded, (11, 6), "prompts of any length share a batch"),
        (equal, (6, 6), "prompts of equal length share a batch"),
        (single, (11,), "prompts are run one by one"),
    ):
        if not _right(tests.cached(path, prompts)):
            continue
        if _right(tests.labels(path)):
            return PathChoice(path, f"{reason}: rows are run without packs, {words}, and their state goes on to labels")
        sequences = path.model_copy(update={"labels": "Sequences"})
        if _right(tests.labels(sequences)):
            return PathChoice(
                sequences, f"{reason}: rows are run without packs, {words}, and labels are run one by one"
            )
    raise StageError(
        f"baseModel: {type(model).__name__} cannot be used: {reason}, and with the family's own cache the next tokens "
        "differ from those without a cache. Use another base model of this size, for example of the Llama, Qwen, "
        "Gemma or Granite families"
    )


def _attention(model: PreTrainedModel) -> Literal["sdpa", "eager"]:
    """What transformers has chosen for this family."""
    return "sdpa" if model.config.get_text_config()._attn_implementation == "sdpa" else "eager"


def _check(difference: float, problem: str) -> None:
    if not _right(difference):
        raise StageError(
            f"baseModel: {problem} (by {difference:.2g} standard deviations). Use another base model, for example of "
            "the Llama, Qwen, Gemma or Granite families"
        )


def _right(*differences: float) -> bool:
    return all(difference <= TOLERANCE for difference in differences)
