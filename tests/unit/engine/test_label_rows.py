"""Labels of models whose layers do not obey masks: copied states and whole sequences, in batches of any kind."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from multitask_api.bundle import ForwardPath, LabelIds
from multitask_serving.engine.classification import label_rows
from multitask_serving.engine.classification.scoring import best_labels, label_log_probs
from multitask_serving.engine.classification.trie import LabelTrie
from multitask_serving.engine.generation.decoding import GenerationInput, generate_rows
from multitask_serving.engine.model.cached_rows import CachedRows
from support.engine_builders import tokenizer
from support.tiny_families import tiny_model

LABELS = ((5,), (6, 7), (6, 8), (6, 8, 9), (10, 11, 12), (13,))
PROMPTS = [list(range(20, 20 + length)) for length in (9, 4, 13, 4, 1)]
PATHS = {
    "states of padded prompts": ForwardPath(isolation="Rows", labels="PromptState"),
    "states of prompts of equal length": ForwardPath(isolation="Rows", labels="PromptState", batches="EqualLengths"),
    "states of single prompts": ForwardPath(isolation="Rows", labels="PromptState", batches="SingleRows"),
    "sequences": ForwardPath(isolation="Rows", labels="Sequences", batches="SingleRows"),
    "sequences without padding": ForwardPath(isolation="Rows", labels="Sequences", right_padding=False),
}
TRIE = LabelTrie.build([LabelIds(label=str(ids), ids=ids) for ids in LABELS], eos=2)


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen3_next")


@pytest.fixture(scope="module")
def expected(model):
    """One label at a time by plain transformers."""

    def of(prompt, ids):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, len(prompt) - 1 :]
        return float(logits.log_softmax(-1)[range(len(ids) + 1), [*ids, 2]].sum())

    return np.array([[of(prompt, ids) for ids in LABELS] for prompt in PROMPTS])


@pytest.mark.parametrize("way", PATHS)
def test_labels_have_the_scores_of_one_label_at_a_time(way, model, expected):
    actual = label_log_probs(model, PROMPTS, [TRIE] * 5, path=PATHS[way])
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("way", PATHS)
def test_the_best_label_is_found_without_scoring_all_of_them(way, model, expected):
    gold = np.array([0, 1, 2, 3, 4])
    best, scores = best_labels(model, PROMPTS, TRIE, gold, path=PATHS[way])
    np.testing.assert_array_equal(best, expected.argmax(axis=1))
    np.testing.assert_allclose(scores, expected[range(5), gold], atol=1e-4)


def test_states_are_copied_in_parts_that_fit_the_memory(model, expected, monkeypatch):
    whole = []
    monkeypatch.setattr(
        CachedRows, "copy", lambda self, rows, copy=CachedRows.copy: whole.append(len(rows)) or copy(self, rows)
    )
    monkeypatch.setitem(label_rows.STATE_BUDGETS, "cpu", 1)
    actual = label_log_probs(model, PROMPTS, [TRIE] * 5, path=PATHS["states of padded prompts"])
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert set(whole) == {1}


def test_a_copy_of_a_state_is_run_with_the_adapter_of_its_prompt(model):
    """The adapter context is told the row of every copy."""
    seen = []

    @contextmanager
    def context(rows):
        seen.append(list(rows))
        yield

    label_log_probs(model, PROMPTS[:2], [TRIE] * 2, path=PATHS["states of padded prompts"], adapter_context=context)
    prompts, first, *_ = seen
    assert prompts == [0, 1]
    assert first == [0] * 4 + [1] * 4, "a level holds the first tokens of both rows' labels"


@pytest.mark.parametrize("way", list(PATHS)[:3])
def test_texts_are_those_of_single_rows_while_other_rows_end(way, model):
    rows = [GenerationInput(prompt, eos=-1, max_new_tokens=2 + row) for row, prompt in enumerate(PROMPTS)]

    def tokens(inputs):
        found = {}
        for steps in generate_rows(model, tokenizer(), inputs, path=PATHS[way]):
            for step in steps:
                found.setdefault(step.row, []).append(step.token)
        return found

    together = tokens(rows)
    for row, given in enumerate(rows):
        assert together[row] == tokens([given])[0]
        ids = list(given.input_ids)
        for _ in range(given.max_new_tokens):
            with torch.inference_mode():
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert together[row] == ids[len(given.input_ids) :]
