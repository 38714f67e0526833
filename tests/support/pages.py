"""Examples on the pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def example(page: Path, kind: str) -> dict[str, Any]:
    """The one object of a kind among the page's blocks of YAML."""
    blocks = [
        text for text in _BLOCK.findall(page.read_text("utf-8")) if re.search(rf"^kind: {kind}$", text, re.MULTILINE)
    ]
    (found,) = (yaml.safe_load(text) for text in blocks)
    assert isinstance(found, dict)
    return found
