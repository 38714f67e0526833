"""Pydantic's errors in plain English: what is wrong with the value, and what it should be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sized
from typing import Any

PydanticError = Mapping[str, Any]
"""One entry of ``ValidationError.errors()``."""

Context = Mapping[str, Any]
"""Its ``ctx``: the bound, pattern or list of values that the value does not meet."""

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def message_of(error: PydanticError) -> str:
    """The message for one error."""
    kind: str = error["type"]
    value = error.get("input")
    if kind == "missing":
        return "required, but missing"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"YAML reads this as {_describe(value)}, not as text; quote it"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {_number(error['ctx'][key])}, got {_describe(value)}"
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}, got {_describe(value)}{_quotes_hint(kind, value)}"
    if kind in _FORMATTERS:
        return _FORMATTERS[kind](value, error.get("ctx", {}))
    return str(error["msg"]).removeprefix("Value error, ")


def _literal(value: object, context: Context) -> str:
    if isinstance(value, bool | int | float):  # not what stands in the file, if that is no, on, 0x10 …
        allowed = context["expected"].replace(" or ", ", ").replace("'", "")
        return f"YAML reads this as {_describe(value)}; write one of {allowed}"
    return f"{_describe(value)} is not one of {context['expected'].replace(' or ', ', ')}"


def _pattern(value: object, context: Context) -> str:
    meaning = PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
    return f"{_describe(value)} {meaning}{_suggestion(value, context['pattern'])}"


def _suggestion(value: object, pattern: str) -> str:
    """The nearest value that matches, for patterns that `_REPAIRS` knows."""
    repair = _REPAIRS.get(pattern)
    repaired = repair(value) if repair is not None and isinstance(value, str) else ""
    return f"; write {repaired}" if repaired and re.match(pattern, repaired) else ""


def _dns_label(name: str) -> str:
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", ascii_name)[:63].strip("-")


def _language_code(code: str) -> str:
    return re.split("[-_]", code.strip().lower())[0]


def _string_too_short(value: object, context: Context) -> str:
    return (
        "must not be empty" if context["min_length"] == 1 else f"must have {context['min_length']} characters or more"
    )


def _string_too_long(value: object, context: Context) -> str:
    return f"at most {context['max_length']} characters are allowed, got {_length(value)}"


def _too_few_items(value: object, context: Context) -> str:
    return f"needs at least {_items(context['min_length'])}, got {_length(value)}"


def _too_many_items(value: object, context: Context) -> str:
    return f"at most {_items(context['max_length'])} allowed, got {_length(value)}"


#: Pattern of the resource's schema → what a value that does not match it is not, and how to write it.
PATTERNS = {
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": (
        "is not a DNS label: use lower-case letters, digits and '-', beginning and ending with a letter or digit"
    ),
    r"^[A-Za-z_][A-Za-z0-9_]*$": "is not a field name: use letters, digits and '_', not beginning with a digit",
    r"^[a-z]{2,3}$": "is not a language code: use two or three lower-case letters, as in en or zh",
}
#: Pattern → the nearest value that may match it.
_REPAIRS: Mapping[str, Callable[[str], str]] = {
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": _dns_label,
    r"^[a-z]{2,3}$": _language_code,
}
_FORMATTERS: Mapping[str, Callable[[object, Context], str]] = {
    "literal_error": _literal,
    "string_pattern_mismatch": _pattern,
    "string_too_short": _string_too_short,
    "string_too_long": _string_too_long,
    "too_short": _too_few_items,
    "too_long": _too_many_items,
}


def _describe(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quotes_hint(kind: str, value: object) -> str:
    """A number or a boolean inside quotes is text."""
    if not isinstance(value, str) or not kind.startswith(("int", "float", "bool")):
        return ""
    lowered = value.strip().lower()
    number = lowered.replace(".", "", 1).replace("-", "", 1).isdigit() and not kind.startswith("bool")
    boolean = lowered in ("true", "false") and kind.startswith("bool")
    return "; remove the quotes" if number or boolean else ""


def _items(number: int) -> str:
    return f"{number} item" if number == 1 else f"{number} items"


def _length(value: object) -> int:
    return len(value) if isinstance(value, Sized) else 0
