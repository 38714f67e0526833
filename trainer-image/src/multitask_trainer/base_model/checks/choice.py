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
from multitask_trainer.base_model.checks.rows import BatchTests, Outcome
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COLUMN_WINDOWS = ("window_size", "attention_window_size")
"""Windows that layers apply to columns whatever the mask says: right for rows, wrong for label tries."""
_ADVICE = "Use another base model of this size, for example of the Llama, Qwen, Gemma or Granite families"


@dataclass(frozen=True)
class PathChoice:
    """The path, and in a sentence why."""

    path: ForwardPath
    reason: str


def choose_path(model: PreTrainedModel, tokens: Sequence[int]) -> PathChoice:
    """Test ``model`` (fp32) with a few ``tokens`` of text (see `BatchTests`); about a dozen short forward passes.

    Raises `StageError` for a model that does not run, that is no decoder, whose logits are not its head's, or that
    gives wrong answers in every way.
    """
    tests = BatchTests(model, tokens)
    _refuse_encoders(model, tests)
    try:
        Backbone.of(model)
    except InvalidBundle as error:
        raise _refused(f"{error}") from error
    path = _with_known_head(model, tests, ForwardPath(attention=_attention(model)))
    masked = path.model_copy(update={"partial_gradients": has_partial_gradients(model, tokens)})
    failed = _masks_fail(model, tests, masked)
    if failed is None:
        return PathChoice(masked, "all layers obey attention masks")
    return _row_path(model, tests, masked, failed)


def _refuse_encoders(model: PreTrainedModel, tests: BatchTests) -> None:
    """Refuse what gives no logits for a row of text, or gives a token logits that depend on later tokens."""
    name, plain = type(model).__name__, tests.plain()
    if plain.error is not None:
        raise _refused(f"{name} fails on a plain row of text ({plain})") from plain.error
    if not plain.is_right:
        raise _refused(f"{name} gives logits that are not numbers for a plain row of text")
    causality = tests.causality()
    if not causality.is_right:
        raise _refused(
            f"{name} is an encoder: the logits at a token change with the tokens behind it ({causality}), so it does "
            "not continue text"
        )


def _with_known_head(model: PreTrainedModel, tests: BatchTests, path: ForwardPath) -> ForwardPath:
    """The path, with the meaning of the family's scale, under which decoder and head give the model's logits."""
    outcome = tests.head(path)
    if outcome.is_right:
        return path
    multiplied = path.model_copy(update={"logits_scaling": "Multiplies"})
    if tests.head(multiplied).is_right:
        return multiplied
    name = type(model).__name__
    if outcome.error is not None:
        raise _refused(f"the decoder of {name}, run alone, fails ({outcome})") from outcome.error
    raise _refused(f"{name} changes its logits after the output head in a way that is not known here ({outcome})")


def _masks_fail(model: PreTrainedModel, tests: BatchTests, path: ForwardPath) -> str | None:
    """What goes wrong with masks; None if nothing does."""
    config = model.config.get_text_config()
    window = next((name for name in _COLUMN_WINDOWS if getattr(config, name, None)), None)
    if window is not None:
        return f"windows are fixed to columns ({window})"
    with tests.short_windows() as windowed:
        if windowed and not all(test(path).is_right for test in (tests.pack, tests.labels, tests.cached)):
            return "layers with a window do not obey attention masks"
    for differs, fails, test in (
        ("two rows in one sequence change each other", "two rows in one sequence fail", tests.pack),
        ("labels behind one prompt change each other", "labels behind one prompt fail", tests.labels),
        ("a plain cache gives other answers", "a plain cache fails", tests.cached),
        ("a row changes beside a longer one", "a row beside a longer one fails", tests.right_padding),
    ):
        outcome = test(path)
        if not outcome.is_right:
            return differs if outcome.error is None else f"{fails} ({outcome})"
    return None


def _row_path(model: PreTrainedModel, tests: BatchTests, masked: ForwardPath, reason: str) -> PathChoice:
    """The fastest way without masks: states of padded prompts, of prompts of equal length, or of one at a time."""
    right_padding = tests.right_padding(masked).is_right
    padded = masked.model_copy(update={"isolation": "Rows", "labels": "PromptState", "right_padding": right_padding})
    equal = padded.model_copy(update={"batches": "EqualLengths"})
    single = padded.model_copy(update={"batches": "SingleRows"})
    problem = ""
    for path, words in (
        (padded, "prompts of any length share a batch"),
        (equal, "prompts of equal length share a batch"),
        (single, "prompts are run one by one"),
    ):
        cached = tests.cached(path)
        if not cached.is_right:
            problem = _cache_problem(cached)
            continue
        if tests.labels(path).is_right:
            return PathChoice(path, f"{reason}: rows are run without packs, {words}, and their state goes on to labels")
        sequences = path.model_copy(update={"labels": "Sequences"})
        labels = tests.labels(sequences)
        if labels.is_right:
            return PathChoice(
                sequences, f"{reason}: rows are run without packs, {words}, and labels are run one by one"
            )
        problem = f"labels that are run one by one get other scores than in plain forward passes ({labels})"
    raise _refused(f"{type(model).__name__} cannot be used: {reason}, and {problem}")


def _cache_problem(cached: Outcome) -> str:
    problem = "differ from those without a cache" if cached.error is None else "cannot be computed"
    return f"with the family's own cache the next tokens {problem} ({cached})"


def _attention(model: PreTrainedModel) -> Literal["sdpa", "eager"]:
    """What transformers has chosen for this family."""
    return "sdpa" if model.config.get_text_config()._attn_implementation == "sdpa" else "eager"


def _refused(problem: str) -> StageError:
    return StageError(f"baseModel: {problem}. {_ADVICE}")
