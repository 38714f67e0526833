"""The table of docs/results/base-models.md: one row a family, written as soon as it is known, and read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from support.tiny_families import FAMILIES

USED, REFUSED, WRONG = "used", "refused in `base`", "**wrong**"
NONE = "–"
START = "| family |"


@dataclass(frozen=True)
class FamilyRow:
    """The cells of a row, in their order."""

    family: str
    architecture: str
    kind: str
    attention: str = NONE
    path: str = NONE
    targets: str = NONE
    moved: str = NONE
    """How far training has moved the label scores, in nats: the largest difference."""
    difference: str = NONE
    text: str = NONE
    merged: str = NONE
    verdict: str = WRONG

    def line(self) -> str:
        """The row in Markdown; a bar inside a cell is escaped."""
        cells = [str(getattr(self, item.name)).replace("|", "\\|").replace("\n", " ") for item in fields(self)]
        return f"| {' | '.join(cells)} |"


HEADINGS = {
    "family": "family",
    "architecture": "architecture",
    "kind": "kind",
    "attention": "attention",
    "path": "path",
    "targets": "LoRA targets",
    "moved": "moved by training",
    "difference": "largest difference",
    "text": "text",
    "merged": "merged",
    "verdict": "verdict",
}
_HEAD = """# Families of base models

    python tests/benchmarks/base_models.py --output docs/results/base-models.md

A tiny, randomly initialised model of each family goes through the stages as a run has them: `base` tests and accepts
or refuses it, `baseline` trains a LoRA adapter for a few steps and writes its served form, and the engine answers from
the bundle, with the adapter beside the base and merged into it. The reference is plain transformers with PEFT: one
label at a time, every token from a whole forward pass, no cache, no masks, no batches. All in fp32 on a CPU.

- *path*: how the stage `base` has chosen to run the family: how rows are kept apart, how labels are scored, which
  prompts share a batch ([base models](../how-to/base-models.md)).
- *LoRA targets*: the names of adapted layers and their number; *stacks* are expert weights in one parameter.
- *moved by training*: the largest change of a label's log probability through the adapter, in nats. *Largest
  difference*: between engine and reference, over {scores} label scores a family; more than {tolerance} is wrong.
- *text*: greedy answers of the engine and of the reference, token by token. *Merged*: scores and answers of the merged
  model, against the same reference.

The weights are random: the page says that a family is computed right, not how well it learns.
"""


def read_rows(page: Path) -> dict[str, str]:
    """Family → its line in the table of ``page``; nothing if there is no page."""
    if not page.exists():
        return {}
    lines = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


def verdict_of(line: str) -> str:
    """The last cell of a row."""
    return line.rstrip("| ").rpartition(" | ")[2]


def page_text(rows: Mapping[str, str], *, scores: int, tolerance: float) -> str:
    """The page with these rows, in the order of `FAMILIES`."""
    lines = [rows[name] for name in FAMILIES if name in rows]
    head = _HEAD.format(scores=scores, tolerance=tolerance)
    table = [f"| {' | '.join(HEADINGS.values())} |", f"|{'---|' * len(HEADINGS)}"]
    return "\n".join([head, _summary(lines), "", *table, *lines]) + "\n"


def _summary(lines: Iterable[str]) -> str:
    verdicts = [verdict_of(line) for line in lines]
    used = sum(verdict == USED for verdict in verdicts)
    refused = sum(verdict.startswith(REFUSED) for verdict in verdicts)
    wrong = len(verdicts) - used - refused
    return f"**Of {len(verdicts)} families {used} are used, {refused} are refused in `base`, {wrong} are wrong.**"
