"""Prompts for instruct models: the task's prompt inside the model's own chat template, compiled to pieces."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from jinja2 import TemplateError as JinjaError

from multitask_api.bundle import PromptPiece
from multitask_serving.engine.errors import TemplateError
from multitask_serving.engine.prompt.template import Field, parse_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Private-use characters: chat templates do not write them, and trimming white space does not remove them.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_DATE_CODES = "aAbBcdDefFgGhHIjkmMnpPrRSTuUVwWxXyYZ"
"""What may stand behind ``%`` in a format of a date or a time of day."""
_PERCENT = "\ue0f2"
"""Stands for ``%%`` while the codes are replaced."""
_ASKED = "the template asks for the time"
_PLACEHOLDER = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


def compile_chat_pieces(
    prompt: str, tokenizer: PreTrainedTokenizerFast, *, today: date | None = None
) -> tuple[PromptPiece, ...]:
    """The prompt as one user message in the tokenizer's chat template, up to where the assistant's answer begins.

    The chat template is rendered once, with a placeholder for each field, and split at the placeholders. The text
    between them becomes literal pieces; it includes BOS and turn markers, so such a prompt has no ``bos`` of its own.
    Thinking is disabled (``enable_thinking=False``): the answer follows at once. A template that asks for the date
    gets ``today``; None: the day on which this runs. Raises `TemplateError`.
    """
    if _OPEN in prompt or _CLOSE in prompt:
        raise TemplateError("the prompt contains the private-use characters U+E0F0 or U+E0F1. Remove them")
    parts = parse_template(prompt)
    names = [part.name for part in parts if isinstance(part, Field)]
    numbers = iter(range(len(names)))
    message = "".join(part if isinstance(part, str) else f"{_OPEN}{next(numbers)}{_CLOSE}" for part in parts)
    rendered = render_message(message, tokenizer, today=today)
    # Odd entries of the split are the placeholders' numbers.
    pieces = _PLACEHOLDER.split(rendered)
    if [int(number) for number in pieces[1::2]] != list(range(len(names))):
        raise TemplateError("the base model's chat template repeats or drops the user's message. Set a plain prompt")
    return tuple(
        PromptPiece(field=names[int(text)])
        if index % 2
        else PromptPiece(
            literal=text,
            ids=tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=False).input_ids),
        )
        for index, text in enumerate(pieces)
        if text
    )


def asks_for_time(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the chat template calls the function for date and time, whatever it does with the answer."""
    try:
        _render("a", tokenizer, "{% macro strftime_now(format) %}{{ raise_exception('" + _ASKED + "') }}{% endmacro %}")
    except JinjaError as error:
        return _ASKED in str(error)
    return False


def render_message(message: str, tokenizer: PreTrainedTokenizerFast, *, today: date | None = None) -> str:
    """The chat template around one user message. Raises `TemplateError`."""
    if not tokenizer.chat_template:
        raise TemplateError("the base model's tokenizer has no chat template. Use an instruct model, or a plain prompt")
    try:
        return _render(message, tokenizer, "" if today is None else _clock(today))
    except JinjaError as error:
        raise TemplateError(f"the base model's chat template failed: {error}. Use a plain prompt") from error


def _render(message: str, tokenizer: PreTrainedTokenizerFast, macros: str) -> str:
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        chat_template=macros + tokenizer.get_chat_template(),
    )
    return str(rendered)


def _clock(today: date) -> str:
    """A macro in place of the function that tells a template the time: the midnight that ``today`` begins with.

    transformers passes no functions to templates, and offers no other way to set the clock.
    """
    values = {f"%{flag}{letter}": today.strftime(f"%{flag}{letter}") for flag in ("", "-") for letter in _DATE_CODES}
    values["%s"] = str(int(datetime(today.year, today.month, today.day, tzinfo=UTC).timestamp()))
    steps = {"%%": _PERCENT, **values, _PERCENT: "%"}
    filters = "".join(f"|replace({json.dumps(code)}, {json.dumps(value)})" for code, value in steps.items())
    return "{% macro strftime_now(format) %}{{ format" + filters + " }}{% endmacro %}"
