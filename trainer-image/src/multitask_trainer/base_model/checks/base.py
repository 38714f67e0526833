"""Tests a base model that has been fetched, once, and leaves what was found beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from multitask_api.types import Record
from multitask_trainer.base_model.checks.choice import choose_path
from multitask_trainer.base_model.checks.tokens import round_trip_warning, sample_tokens
from multitask_trainer.base_model.loading import load_tokenizer, read_model, write_forward_path
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


def check_base(folder: Path) -> BaseChecks:
    """Test the base in ``folder``, or read what an earlier call has found. Writes the `ForwardPath` there.

    Raises `StageError` for a base that cannot be used.
    """
    path = folder / _CHECKS
    if path.exists():
        try:
            return BaseChecks.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StageError(
                f"{path}: is not of this version ({error}); delete {folder} to have it made again"
            ) from error
    model, tokenizer = read_model(folder, attention=None), load_tokenizer(folder)
    model.eval()  # type: ignore[no-untyped-call]
    choice = choose_path(model, sample_tokens(model, tokenizer))
    checks = BaseChecks(
        reason=choice.reason, warnings=tuple(filter(None, [round_trip_warning(tokenizer), _unused(model)]))
    )
    write_forward_path(choice.path, folder)
    write_atomically(path, checks.model_dump_json(by_alias=True))
    return checks


def _unused(model: PreTrainedModel) -> str | None:
    """A note about the parts of a composite model that text never reaches."""
    from multitask_serving.engine.model.backbone import Backbone

    unused = sum(value.numel() for value in Backbone.of(model).weights_outside(model))
    if not unused:
        return None
    return f"baseModel: {unused:,} of its weights are outside of the text decoder; they stay as they are"
