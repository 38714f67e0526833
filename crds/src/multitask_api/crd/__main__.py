"""Writes the custom resource definitions: ``python -m multitask_api.crd [--out DIR]``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from multitask_api.crd.schema import as_yaml, definitions


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Write the custom resource definitions.")
    parser.add_argument("--out", type=Path, default=Path("crds"), help="the folder to write into")
    folder: Path = parser.parse_args(argv).out
    folder.mkdir(parents=True, exist_ok=True)
    for name, definition in definitions().items():
        (folder / name).write_text(as_yaml(definition), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
