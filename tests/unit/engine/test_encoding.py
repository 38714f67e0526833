from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from multitask_serving.engine.errors import (
    EmptyPrompt,
    InvalidField,
    LabelError,
    MissingField,
    PromptTooLong,
    TemplateError,
)
from multitask_serving.engine.prompt.chat import compile_chat_pieces
from multitask_serving.engine.prompt.encoding import (
    bos_ids,
    compile_labels,
    compile_pieces,
    decode_answer,
    encode_label,
    encode_prompt,
    encode_prompts,
    encode_target,
    prompt_budget,
)
from support.engine_builders import tokenizer

TOK = tokenizer()


def plain(text: str) -> list[int]:
    ids: list[int] = TOK(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids


def prompt_ids(prompt: str, max_tokens: int = 1000, **fields: str) -> list[int]:
    return encode_prompt(compile_pieces(prompt, TOK), fields, TOK, max_tokens=max_tokens).ids


def test_pieces_are_tokenised_apart_so_the_template_has_the_same_ids_whatever_the_field() -> None:
    prompt = "How urgent is {text} now? Urgency:"
    for text in ("", " ", "this message", " is", "urgent is"):
        assert prompt_ids(prompt, text=text) == plain("How urgent is ") + plain(text) + plain(" now? Urgency:")


def test_whole_string_tokenisation_would_differ_at_a_seam() -> None:
    assert prompt_ids("urgent is {text}", text="this") != plain("urgent is this")


def test_a_special_token_in_a_field_is_plain_text_and_in_the_template_it_is_itself() -> None:
    ids = prompt_ids("<bos>{text}<eos>", text="a<eos>b<bos><pad>")
    assert ids[0] == 1
    assert ids[-1] == 2
    assert not {0, 1, 2} & set(ids[1:-1])
    assert TOK.decode(ids[1:-1]) == "a<eos>b<bos><pad>"


def test_a_special_token_in_a_label_or_target_is_plain_text() -> None:
    assert not {0, 1, 2} & set(encode_label(TOK, "<eos>", "x:") + encode_target(TOK, "a<bos>", "x:"))


def test_encoding_does_not_depend_on_what_was_encoded_before() -> None:
    before = prompt_ids("<bos>{text}", text="<eos>")
    TOK("<eos>", split_special_tokens=False)
    TOK("<eos> x", truncation=True, max_length=1, padding="max_length")
    assert prompt_ids("<bos>{text}", text="<eos>") == before


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ((5, 5), 10, (5, 5)),
        ((5, 5), 9, (5, 4)),
        ((50, 3), 10, (7, 3)),
        ((3, 50), 10, (3, 7)),
        ((20, 20, 2), 12, (5, 5, 2)),
        ((20, 20, 20), 11, (4, 4, 3)),
        ((9, 9), 0, (0, 0)),
        ((9, 9), 1, (1, 0)),
        ((1, 8, 30), 20, (1, 8, 11)),
    ],
)
def test_fields_are_cut_longest_first_and_keep_their_head(
    lengths: tuple[int, ...], room: int, kept: tuple[int, ...]
) -> None:
    # A digit is one token in this vocabulary, so a field of n digits has n tokens.
    names = "abc"[: len(lengths)]
    prompt = "|".join(f"{{{name}}}" for name in names) + "|"
    fields = {name: "0123456789"[i:] * 6 for i, name in enumerate(names)}
    fields = {name: text[:length] for (name, text), length in zip(fields.items(), lengths, strict=True)}
    encoded = encode_prompt(compile_pieces(prompt, TOK), fields, TOK, max_tokens=room + len(names))
    heads = (text[:length] for text, length in zip(fields.values(), kept, strict=True))
    assert TOK.decode(encoded.ids) == "|".join(heads) + "|"
    assert encoded.truncated == (sum(lengths) > room)


def test_bos_comes_first_and_counts() -> None:
    encoded = encode_prompt(compile_pieces("{a}:", TOK), {"a": "0123456789"}, TOK, max_tokens=6, bos=(1,))
    assert encoded.ids == [1, *plain("0123"), *plain(":")]


def test_a_field_used_twice_is_cut_twice() -> None:
    assert TOK.decode(prompt_ids("{a}|{a}", 7, a="01234")) == "012|012"


def test_many_prompts_in_one_call_are_the_prompts_one_by_one() -> None:
    pieces = [compile_pieces(prompt, TOK) for prompt in ("{a} is {b}:", "no field", "{b}{b}")]
    requests = [(pieces[i % 3], {"a": "urgent " * i, "b": "card"}, 30, (1,)) for i in range(9)]
    one_by_one = [encode_prompt(p, f, TOK, max_tokens=m, bos=b) for p, f, m, b in requests]
    assert encode_prompts(requests, TOK) == one_by_one


def test_a_missing_field_is_named_with_those_known() -> None:
    with pytest.raises(
        MissingField, match=r"'text' is missing: the prompt uses title, text; the request gives body, title"
    ):
        prompt_ids("{title} {text}", body="x", title="y")


def test_a_field_that_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidField, match="field 'text' is of type int, and the prompt needs text"):
        prompt_ids("{text}", text=3)  # type: ignore[arg-type]


def test_a_template_longer_than_the_room_is_refused() -> None:
    with pytest.raises(PromptTooLong, match="own text has 7 tokens and at most 6 fit"):
        prompt_ids("0123456{a}", 6, a="")


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(EmptyPrompt, match="the prompt is empty"):
        prompt_ids("{a}", a="")


def test_the_budget_leaves_room_for_answer_and_eos() -> None:
    assert prompt_budget(256, 12) == 243
    with pytest.raises(PromptTooLong, match="leave no room"):
        prompt_budget(16, 15)


@pytest.mark.parametrize("prompt", ["Urgency:", "Urgency: ", "Urgency:\n", "{text}"])
@pytest.mark.parametrize("text", ["high", " two spaces", "", "Geld zurück", "顾客 😀", "a<eos>b"])
def test_decoding_an_answer_inverts_encoding_it(prompt: str, text: str) -> None:
    assert decode_answer(TOK, [*encode_target(TOK, text, prompt), 2], prompt) == text


def test_a_label_after_a_colon_has_the_ids_of_running_text() -> None:
    assert encode_label(TOK, "high", "Urgency:") == tuple(plain(" high"))
    assert encode_label(TOK, "high", "Urgency: ") == tuple(plain("high"))


def test_labels_keep_their_order_and_ids() -> None:
    compiled = compile_labels(["low", "medium", "high"], TOK, "Urgency:")
    assert [label.label for label in compiled] == ["low", "medium", "high"]
    assert [list(label.ids) for label in compiled] == [plain(" low"), plain(" medium"), plain(" high")]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], "labels 'a' and 'a' have the same token ids"),
        (["a", ""], "label '' has no text"),
        (["a", "  "], "label '  ' has no text"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        compile_labels(labels, TOK, "x:")


def test_bos_is_what_the_tokenizer_puts_in_front() -> None:
    assert bos_ids(TOK) == ()
    with_bos = PreTrainedTokenizerFast(tokenizer_object=TOK.backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    assert bos_ids(with_bos) == (1,)
    assert compile_pieces("a", with_bos)[0].ids == tuple(plain("a"))


CHAT = (
    "{{ bos_token }}{% for m in messages %}<user>{{ m.content | trim }}</user>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% if enable_thinking %}hm{% endif %}{{ '\n' }}{% endif %}"
)


def chat_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=TOK.backend_tokenizer, bos_token="<bos>", eos_token="<eos>", chat_template=template
    )


def test_a_chat_prompt_is_what_the_chat_template_renders_around_the_fields() -> None:
    chat = chat_tokenizer(CHAT)
    pieces = compile_chat_pieces(" {{is}} {a} or {b} urgent? ", chat)
    ids = encode_prompt(pieces, {"a": "x<eos>", "b": ""}, chat, max_tokens=200).ids
    assert TOK.decode(ids) == "<bos><user>{is} x<eos> or  urgent?</user><bot>\n"
    assert ids[0] == 1
    assert 2 not in ids
    assert [piece.field for piece in pieces] == [None, "a", None, "b", None]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "repeats or drops"),
        ("hello", "repeats or drops"),
        ("{{ raise_exception('system first') }}", "chat template failed: system first"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused(template: str | None, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        compile_chat_pieces("{a}", chat_tokenizer(template))
