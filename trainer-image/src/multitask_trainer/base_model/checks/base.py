"""Tests a base model that has been fetched, once, and leaves what was found beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from multitask_api.types import Record
from multitask_trainer.base_model.checks.bf16 import bf16_problem
from multitask_trainer.base_model.checks.choice import choose_path
from multitask_trainer.base_model.checks.tokens import check_vocabulary, round_trip_warning, sample_tokens
from multitask_trainer.base_model.loading import Precision, load_tokenizer, read_model, write_forward_path
from multitask_trainer.errors import StageError
from multitask_trainer.storage.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHECKS = "checks.json"


class BaseChecks(Record):
    """What the tests of a base found, beside its `ForwardPath`."""

    reason: str
    """Why it is run as it is."""
    warnings: tuple[str, ...] = ()
    bf16_problem: str | None = None
    """Why it cannot be served in bf16, if so."""


def check_base(folder: Path, precision: Precision) -> BaseChecks:
    """Test the base in ``folder``, or read what an earlier call has found. Writes the `ForwardPath` there.

    Raises `StageError` for a base that cannot be used, or not in the ``precision`` of the run. A base is the same for
    both precisions, so it is tested in both.
    """
    path = folder / _CHECKS
    if path.exists():
        checks = _read(path)
    else:
        checks = _test(folder)
        write_atomically(path, checks.model_dump_json(by_alias=True))
    if checks.bf16_problem is not None and precision == "bf16":
        raise StageError(f"baseModel: {checks.bf16_problem}. Set training.precision to fp32, or use another base model")
    return checks


def _read(path: Path) -> BaseChecks:
    try:
        return BaseChecks.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StageError(
            f"{path}: is not of this version ({error}); delete {path.parent} to have it made again"
        ) from error


def _test(folder: Path) -> BaseChecks:
    model, tokenizer = read_model(folder, attention=None), load_tokenizer(folder)
    model.eval()  # type: ignore[no-untyped-call]
    check_vocabulary(model, tokenizer)
    tokens = sample_tokens(tokenizer)
    choice = choose_path(model, tokens)
    write_forward_path(choice.path, folder)
    warnings = [round_trip_warning(tokenizer), _unused(model)]
    problem = bf16_problem(model, choice.path, tokens)
    if problem is not None:
        warnings.append(f"baseModel: with training.precision bf16 this base could not be used: {problem}")
    return BaseChecks(reason=choice.reason, warnings=tuple(filter(None, warnings)), bf16_problem=problem)


def _unused(model: PreTrainedModel) -> str | None:
    """A note about the parts of a composite model that text never reaches."""
    from multitask_serving.engine.model.backbone import Backbone

    unused = sum(value.numel() for value in Backbone.of(model).weights_outside(model))
    if not unused:
        return None
    return f"baseModel: {unused:,} of its weights are outside of the text decoder; they stay as they are"
