"""Rows and texts as ids: the encoder, the builtin tokenizer, pre-training shards."""

from __future__ import annotations

import json

import numpy as np
import pytest

from multitask_api.bundle import PromptFormat
from multitask_api.errors import UserError
from multitask_trainer.base_model.builtin import make_model, make_tokenizer, size_of
from multitask_trainer.base_model.sources import BaseModelSource, make_base
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.rows import Row
from multitask_trainer.training.batching.corpus import TextBatches, unused_text_warning, write_corpus, write_task_text
from multitask_trainer.training.batching.dataset import ANSWER_CUT, PROMPT_CUT, TaskEncoder
from support.training_fixtures import KIND, REPEAT, TASKS, rows

TEXTS = [row.fields["text"] for row in rows("kind", 300, 0)] + ["fruit", "tool", "\nKind:", "\nThing:"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(TEXTS, 400)


def encoder(tokenizer, task=KIND, max_length=48):
    return TaskEncoder.of(task, tokenizer, max_length=max_length, chat_template=False, prompt_format=PromptFormat())


def test_a_row_is_its_prompt_and_then_its_answer_and_eos(tokenizer):
    dataset = encoder(tokenizer).encode([Row({"text": "we have a pear"}, "fruit")])
    ids, prompt = dataset.row(0)
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1:prompt]) == "we have a pear\nKind:"
    assert tokenizer.decode(ids[prompt:-1]) == " fruit"
    assert dataset.truncated == 0


def test_a_long_field_is_cut_and_counted_and_template_and_label_are_whole(tokenizer):
    dataset = encoder(tokenizer, max_length=24).encode(
        [Row({"text": "plum " * 60}, "tool"), Row({"text": "a"}, "tool")]
    )
    ids, prompt = dataset.row(0)
    assert len(ids) <= 24
    assert tokenizer.decode(ids[:prompt]).endswith("\nKind:")
    assert tokenizer.decode(ids[prompt:-1]) == " tool"
    assert dataset.truncated == 1
    assert dataset.cut.tolist() == [PROMPT_CUT, 0]


def test_a_target_beyond_its_budget_is_cut_counted_and_has_no_end(tokenizer):
    dataset = encoder(tokenizer, REPEAT).encode(
        [Row({"text": "x"}, None, ("zz" * 40,)), Row({"text": "x"}, None, ("fig",))]
    )
    ids, prompt = dataset.row(0)
    assert len(ids) - prompt == REPEAT.generation.max_new_tokens
    assert ids[-1] != tokenizer.eos_token_id
    assert dataset.row(1)[0][-1] == tokenizer.eos_token_id
    assert dataset.cut.tolist() == [ANSWER_CUT, 0]


def test_a_special_token_spelled_out_in_a_field_is_plain_text(tokenizer):
    ids, _ = encoder(tokenizer).encode([Row({"text": "<|eos|>"}, "fruit")]).row(0)
    assert list(ids).count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("text", ["größer, 東京タワー 2024!", "👩‍🚒 fire\tman\n", "", "  two  spaces "])
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_digits_stand_alone(tokenizer):
    assert len(tokenizer("2024", add_special_tokens=False).input_ids) == 4


def test_the_same_texts_give_the_same_tokenizer_and_the_same_seed_the_same_weights(tokenizer):
    again = make_tokenizer(iter(TEXTS), 400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    one, two, other = (make_model(size_of("micro"), tokenizer, seed) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert (one.model.embed_tokens.weight != other.model.embed_tokens.weight).any()
    assert one.lm_head.weight is one.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("builtin://huge", "builtin://huge: there is no such size; use one of micro, tiny"),
        ("nowhere", r"nowhere: no such folder .*, or hf://ORG/NAME"),
        ("file:///nowhere", "no such folder"),
        ("empty", "cannot be loaded .*; the folder must hold a causal language model"),
        ("hf://no-such/model", "cannot be loaded .*; check its name, that this machine reaches the hub"),
    ],
)
def test_bases_that_cannot_be_had(uri, message, tmp_path):
    (tmp_path / "empty").mkdir()
    source = BaseModelSource(uri, None, 1, DataLocations(tmp_path))
    with pytest.raises(UserError, match=message):
        make_base(source, tmp_path / "out", tasks=(), rows={}, corpus=())


def test_a_folder_is_a_base(tmp_path, tokenizer):
    make_model(size_of("micro"), tokenizer, 1).save_pretrained(tmp_path / "given")
    tokenizer.save_pretrained(tmp_path / "given")
    make_base(
        BaseModelSource("given", None, 1, DataLocations(tmp_path)), tmp_path / "out", tasks=(), rows={}, corpus=()
    )
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert (tmp_path / "out" / "model.safetensors").exists()


class Corpus:
    """Texts that count how far they were read."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count, self.read = name, count, 0

    def __iter__(self):
        for number in range(self.count):
            self.read += 1
            yield f"{self.name} {number} of the plum"


def tokens_in(folder):
    return np.concatenate([np.fromfile(path, dtype=np.uint32) for path in sorted(folder.glob("*.bin"))])


def test_a_corpus_is_read_in_turns_and_only_as_far_as_needed(tmp_path, tokenizer):
    sources = [Corpus("pear", 100_000), Corpus("saw", 100_000)]
    write_corpus(tmp_path, sources, tokenizer, tokens_needed=5000)
    text = tokenizer.decode(tokens_in(tmp_path))
    assert 5000 <= len(tokens_in(tmp_path)) < 12_000
    assert sources[0].read == sources[1].read < 1000
    assert text.startswith("<|bos|>pear 0 of the plum<|eos|><|bos|>saw 0 of the plum<|eos|>")


def test_tokenising_goes_on_after_the_shards_that_are_there(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("multitask_trainer.training.batching.corpus.SHARD_TOKENS", 3000)
    for folder in (tmp_path / "whole", tmp_path / "cut"):
        folder.mkdir()
        write_corpus(folder, [Corpus("pear", 2000)], tokenizer, tokens_needed=10**9)
    shards = sorted((tmp_path / "cut").glob("*.bin"))
    assert len(shards) > 3
    for lost in shards[2:]:
        lost.unlink()
    (tmp_path / "cut" / "corpus.done").unlink()
    write_corpus(tmp_path / "cut", [Corpus("pear", 2000)], tokenizer, tokens_needed=10**9)
    assert (tokens_in(tmp_path / "cut") == tokens_in(tmp_path / "whole")).all()


def text_batches(folder, length=16, batch_rows=4, **changes):
    settings = {"seed": 1, "token_budget": 40, "process": 0, "processes": 1} | changes
    return TextBatches.of(folder, length=length, batch_rows=batch_rows, **settings)


def test_blocks_predict_the_next_token_and_come_once_an_epoch(tmp_path, tokenizer):
    write_corpus(tmp_path, [Corpus("pear", 300)], tokenizer, tokens_needed=1000)
    stream = tokens_in(tmp_path)
    blocks = (len(stream) - 1) // 16
    batches = text_batches(tmp_path, batch_rows=blocks)
    seen = set()
    for micro_batch in batches.at(0):
        assert micro_batch.input_ids.shape[0] <= 2
        assert (
            micro_batch.input_ids[:, 1:].reshape(-1) == micro_batch.targets.reshape(-1, 16)[:, :-1].reshape(-1)
        ).all()
        seen |= {tuple(line) for line in micro_batch.input_ids.tolist()}
    expected = {tuple(stream[begin : begin + 16].tolist()) for begin in range(0, blocks * 16, 16)}
    assert seen == expected
    assert sum(float(micro_batch.weights.sum()) for micro_batch in batches.at(0)) == pytest.approx(1)


def test_processes_share_a_step(tmp_path, tokenizer):
    write_corpus(tmp_path, [Corpus("pear", 300)], tokenizer, tokens_needed=1000)
    one = [line for batch in text_batches(tmp_path).at(3) for line in batch.input_ids.tolist()]
    two = [
        line
        for process in (0, 1)
        for batch in text_batches(tmp_path, process=process, processes=2).at(3)
        for line in batch.input_ids.tolist()
    ]
    assert sorted(one) == sorted(two)


def test_less_text_than_a_block_is_repeated_and_none_is_an_error(tmp_path, tokenizer):
    with pytest.raises(UserError, match="there is no text; set tasksText: true or name a corpus"):
        text_batches(tmp_path)
    write_task_text(tmp_path, [encoder(tokenizer, TASKS["kind"]).encode(rows("kind", 1, 0))])
    assert text_batches(tmp_path, length=500).at(0)[0].input_ids.shape[1] == 500


def test_tasks_text_that_fills_no_block_beside_a_corpus_is_told(tmp_path, tokenizer):
    assert unused_text_warning(tmp_path, 16) is None
    write_task_text(tmp_path, [encoder(tokenizer, TASKS["kind"]).encode(rows("kind", 1, 0))])
    own = len(tokens_in(tmp_path))
    assert unused_text_warning(tmp_path, own) is None, "it is all there is, and is repeated"
    write_corpus(tmp_path, [Corpus("pear", 300)], tokenizer, tokens_needed=1000)
    assert unused_text_warning(tmp_path, own - 1) is None
    warning = unused_text_warning(tmp_path, own)
    assert warning.startswith(
        f"pretraining: the tasks' text is {own} tokens, less than one block of training.maxLength, "
    )
    assert sum(len(shard) for shard in text_batches(tmp_path, length=own).shards) == len(tokens_in(tmp_path)) - own


def test_a_corpus_in_files_is_read_through_its_compression(tmp_path):
    import gzip
    import lzma

    from multitask_trainer.data.reading import read_texts

    line = json.dumps({"text": "plum"}) + "\n"
    (tmp_path / "a.jsonl").write_text(line)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(line.encode()))
    assert list(read_texts(".", DataLocations(tmp_path))) == ["plum"] * 3
