"""What stands in the source of a package: names that no test run can collect completely."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

_UPPER_CAMEL = re.compile(r"[A-Z][A-Za-z0-9]{2,}")


def upper_camel_literals(folders: Iterable[Path]) -> set[str]:
    """Every string literal that is one word as Kubernetes writes reasons and kinds, ``__all__`` left out."""
    words: set[str] = set()
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        tree = ast.parse(path.read_text("utf-8"))
        exported = {id(node) for statement in tree.body if _is_all(statement) for node in ast.walk(statement)}
        words |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in exported
        }
    return {word for word in words if _UPPER_CAMEL.fullmatch(word)}


def _is_all(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "__all__" for target in statement.targets
    )
