"""docs/results/base-models.md: every family has its row, none is wrong; and the program behind it finds a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask_api.bundle import ForwardPath
from multitask_trainer.base_model.checks import base
from multitask_trainer.base_model.checks.choice import PathChoice
from support.family_table import REFUSED, USED, WRONG, FamilyRow, page_text, read_rows, verdict_of
from support.family_trial import KINDS, try_family
from support.tiny_families import EXPERTS, FAMILIES, HYBRID, WINDOWED, WRAPPED

PAGE = Path(__file__).parents[3] / "docs/results/base-models.md"
ROWS = read_rows(PAGE)


def test_the_page_has_a_row_for_each_family_in_their_order():
    assert list(ROWS) == list(FAMILIES)
    assert KINDS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_is_accepted_and_wrong(family):
    verdict = verdict_of(ROWS[family])
    assert verdict == USED or verdict.startswith(f"{REFUSED}: ")


@pytest.mark.parametrize("group", [HYBRID, EXPERTS, WINDOWED, WRAPPED, ["gpt2"]])
def test_families_of_each_difficult_kind_are_used(group):
    assert [name for name in group if verdict_of(ROWS[name]) == USED]


def test_a_partial_page_is_read_again_and_counts_what_it_has(tmp_path):
    rows = {
        "gpt2": FamilyRow("`gpt2`", "GPT2LMHeadModel", "dense", verdict=USED).line(),
        "llama": FamilyRow("`llama`", "LlamaForCausalLM", "dense", verdict=f"{WRONG}: a | b\nc").line(),
    }
    page = tmp_path / "page.md"
    page.write_text(page_text(rows, scores=20, tolerance=2e-3))
    assert list(read_rows(page)) == ["llama", "gpt2"]
    assert read_rows(page) == rows
    assert verdict_of(rows["llama"]).startswith(WRONG)
    assert "Of 2 families 1 are used, 0 are refused in `base`, 1 are wrong." in page.read_text()
    assert read_rows(tmp_path / "none.md") == {}


@pytest.mark.parametrize(
    ("family", "problem"),
    [
        ("falcon_alibi", "fails in training: ValueError"),
        ("gpt_neo", "label scores differ"),
        ("bamba", "fails when served: IndexError"),
    ],
)
def test_a_family_that_is_run_in_a_way_its_layers_do_not_obey_is_wrong(family, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "choose_path", lambda model, tokens: PathChoice(ForwardPath(attention="eager"), "any"))
    verdict = try_family(family, tmp_path).verdict
    assert verdict.startswith(f"{WRONG}: {problem}")


def test_a_family_that_is_refused_has_the_reason_of_the_stage_base(tmp_path):
    row = try_family("bert", tmp_path)
    assert row.verdict.startswith(f"{REFUSED}: BertLMHeadModel is an encoder: the logits at a token change")
    assert row.merged == "–"
