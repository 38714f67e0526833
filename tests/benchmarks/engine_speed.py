"""How fast the engine answers, on one CPU thread: ``python tests/benchmarks/engine_speed.py``.

Two sizes: a random Llama (96 wide, 2 layers, vocabulary 4,096), and SmolLM2-135M (576 wide, 30 layers, vocabulary
49,152). Requests of about 40 tokens, tokenisation included. Prints a table: rows a second for few and many labels, one
request at a time and many in a call, without and with 8 mixed adapters, the same labels scored as one sequence each
(the naive way), and generated tokens a second. Seconds are those of the processor, which other work on the machine
lengthens least.

``--mixed`` prints what mixing adapters costs instead: calls with 1, 8 and 100 adapters in turn, of 32 requests (and of
128 where the model is small), for the widths 96, 576 and 2,048; medians and 95th percentiles, and their ratio to the
calls with one adapter.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import smollm2
from multitask_api.bundle import Bundle, GenerationSettings, LabelIds, ServedTask
from multitask_serving.engine.classification.scoring import label_log_probs
from multitask_serving.engine.classification.trie import LabelTrie
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.generation.sampling import Sampling
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import attach_adapters
from multitask_serving.engine.model.loading import LoadedModel
from multitask_serving.engine.prompt.encoding import compile_labels, compile_pieces, encode_prompt
from multitask_serving.engine.types import Request

DRAW = random.Random(1)
WORDS = [
    "".join(DRAW.choice(("ka", "lo", "mi", "ter", "sun", "bra", "ned", "po")) for _ in range(4)) for _ in range(9000)
]
EIGHT_TOKENS = Sampling(max_new_tokens=8)
PROMPT = "Which of them is it?\n{text}\nAnswer:"


@dataclass(frozen=True)
class Size:
    """A model to measure, and how much work makes a figure of it: rows and texts of a call."""

    title: str
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]
    words: Callable[[PreTrainedTokenizerFast], Sequence[str]]
    """What texts and labels are made of."""
    rows: int
    texts: int
    length: tuple[int, int]
    """Words of the text, for a request of about 40 tokens, prompt included."""
    deviation: float
    """Of the random adapters' weights."""


def text(count: int, words: Sequence[str] = WORDS) -> str:
    return " ".join(DRAW.choice(words) for _ in range(count))


def own_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """English words that are one token behind a space."""
    tokens = (token.removeprefix("Ġ") for token in sorted(tokenizer.get_vocab()) if token.startswith("Ġ"))
    return [token for token in tokens if token.isascii() and token.isalpha() and len(token) > 3]


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=alphabet, special_tokens=["<pad>", "<eos>"], show_progress=False
    )
    backend.train_from_iterator((" ".join(WORDS[i : i + 50]) for i in range(0, len(WORDS), 50)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def random_llama(width: int = 96) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = LlamaConfig(
        vocab_size=4096, hidden_size=width, intermediate_size=width * 8 // 3 // 32 * 32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, initializer_range=0.2 * (96 / width) ** 0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config), make_tokenizer()


def load_smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    folder = smollm2.make()
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


SIZES = {
    "tiny": Size(
        "random Llama, 2 layers", random_llama, lambda _: WORDS, rows=256, texts=32, length=(8, 22), deviation=0.1
    ),
    "smollm2": Size("SmolLM2-135M", load_smollm2, own_words, rows=4, texts=4, length=(20, 40), deviation=0.01),
}


def make_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    adapters: int,
    words: Sequence[str] = WORDS,
    deviation: float = 0.1,
    rank: int = 8,
) -> Engine:
    model.eval().requires_grad_(requires_grad=False)
    index = ActiveAdapters(model.device)
    linears = {name: layer for name, layer in model.model.named_modules() if isinstance(layer, torch.nn.Linear)}
    widths = {f"model.{name}": (layer.in_features, layer.out_features) for name, layer in linears.items()}
    deltas = [
        {
            name: (torch.randn(rank, wide) * deviation, torch.randn(out, rank) * deviation)
            for name, (wide, out) in widths.items()
        }
        for _ in range(adapters)
    ]
    attach_adapters(model, deltas, index)
    names: dict[str | None, int] = {None: 0} | {f"a{number}": number for number in range(1, adapters + 1)}
    pieces = compile_pieces(PROMPT, tokenizer)
    tasks = []
    for adapter in list(names)[1:] or [None]:
        for count in (5, 150):
            labels = compile_labels(
                [f"{text(1, words)} {i}" if count > 5 else words[i] for i in range(count)], tokenizer, pieces
            )
            tasks.append(task(f"{count}-{adapter}", pieces, adapter, labels, tokenizer.eos_token_id))
        tasks.append(task(f"text-{adapter}", pieces, adapter, (), eos=len(tokenizer) - 1))  # hardly ever comes
    return Engine.from_parts(
        Bundle(revision="speed", models=(), tasks=tuple(tasks)), {"m": LoadedModel(model, tokenizer, index, names)}
    )


def task(
    name: str, pieces: Sequence[object], adapter: str | None, labels: tuple[LabelIds, ...], eos: int
) -> ServedTask:
    return ServedTask(
        name=name, type="Classification" if labels else "Generation", model="m", adapter=adapter, pieces=tuple(pieces),
        eos=eos, max_length=256, labels=labels, generation=None if labels else GenerationSettings(max_new_tokens=32),
    )  # fmt: skip


def rate(call: Callable[[], int], seconds: float) -> float:
    """Units a second of the processor, of the fastest of the calls that fit into ``seconds``, at least one.

    The first call sets up what is set up once, and counts only if it alone takes longer. There is one thread, and other
    work on the machine lengthens the processor's seconds least.
    """
    end = time.perf_counter() + seconds
    best = _rate_once(call)
    if time.perf_counter() >= end:
        return best
    best, end = 0.0, time.perf_counter() + seconds
    while not best or time.perf_counter() < end:
        best = max(best, _rate_once(call))
    return best


def _rate_once(call: Callable[[], int]) -> float:
    begin = time.process_time()
    units = call()
    return units / (time.process_time() - begin)


def shown(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"


def naive(engine: Engine, tokenizer: PreTrainedTokenizerFast, name: str, rows: Sequence[Request]) -> int:
    """Every label of every row as a sequence of its own."""
    served = engine.task(name)
    tries = [LabelTrie.build([label], served.eos) for label in served.labels]
    for row in rows:
        ids = encode_prompt(served.pieces, row.fields, tokenizer, max_tokens=200).ids
        label_log_probs(engine._models["m"].model, [ids] * len(tries), tries)
    return len(rows)


def figures(size: Size, adapters: int, seconds: float) -> Iterator[tuple[str, str]]:
    """What was measured → its figure, for an engine with so many adapters."""
    model, tokenizer = size.load()
    words = size.words(tokenizer)
    engine = make_engine(model, tokenizer, adapters, words, size.deviation)
    kinds = [f"a{number}" for number in range(1, adapters + 1)] or ["None"]
    mixed = f"{adapters} adapters mixed" if adapters else "no adapter"
    for count in (5, 150):
        names = [f"{count}-{kind}" for kind in kinds]
        rows = [
            Request(names[i % len(names)], {"text": text(DRAW.randint(*size.length), words)}) for i in range(size.rows)
        ]
        many = rate(lambda rows=rows: len(engine.classify(rows)), seconds)
        single = rate(lambda rows=rows[:16]: sum(len(engine.classify([row])) for row in rows), seconds)
        yield f"{count} labels, {mixed}, many rows a call", shown(many, "rows/s")
        yield f"{count} labels, {mixed}, one row a call", shown(single, "rows/s")
        if not adapters:
            slow = rate(lambda rows=rows[:1], name=names[0]: naive(engine, tokenizer, name, rows), seconds)
            yield f"{count} labels, one sequence a label", shown(slow, "rows/s")
    rows = [
        Request(f"text-{kinds[i % len(kinds)]}", {"text": text(sum(size.length) // 2, words)})
        for i in range(size.texts)
    ]
    many = rate(lambda: sum(len(one.tokens) for one in engine.generate_all(rows)), seconds)
    single = rate(lambda: sum(len(one.tokens) for one in engine.generate_all(rows[:1])), seconds)
    yield f"text, {mixed}, many rows a call", shown(many, "tokens/s")
    yield f"text, {mixed}, one row a call", shown(single, "tokens/s")


def table(sizes: Sequence[Size], seconds: float) -> Iterator[str]:
    """Lines of a Markdown table with a column for each size."""
    columns: list[dict[str, str]] = []
    for size in sizes:
        columns.append({})
        for what, figure in itertools.chain(*(figures(size, adapters, seconds) for adapters in (0, 8))):
            columns[-1][what] = figure
            print(f"{size.title}, {what}: {figure}", file=sys.stderr, flush=True)
    yield f"| what | {' | '.join(f'{size.title} ({size.rows} rows or {size.texts} texts a call)' for size in sizes)} |"
    yield "|---|" + "---:|" * len(sizes)
    for what in columns[0]:
        yield f"| {what} | {' | '.join(column[what] for column in columns)} |"


def measure_mixed(width: int, seconds: float) -> None:
    """Print what 8 and 100 mixed adapters cost against one: the same calls in turn, so that all share the noise."""
    engine = make_engine(*random_llama(width), 100)
    counts = (32, 128) if width < 500 else (32,)
    for kind, count in itertools.product(("5", "text"), counts):
        texts = [text(DRAW.randint(8, 22)) for _ in range(count)]
        calls = {}
        for adapters in (1, 8, 100):
            used = DRAW.choices(range(1, adapters + 1), k=count)
            calls[adapters] = [Request(f"{kind}-a{n}", {"text": t}) for n, t in zip(used, texts, strict=True)]
        times: dict[int, list[float]] = {adapters: [] for adapters in calls}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[1]) < 5:
            for adapters, rows in calls.items():
                begin = time.process_time()
                engine.generate_all(rows, sampling=EIGHT_TOKENS) if kind == "text" else engine.classify(rows)
                times[adapters].append(time.process_time() - begin)
        what = "8 tokens of text" if kind == "text" else f"{kind} labels"
        print(f"{width} wide, {count} rows, {what} ({len(times[1])} calls each):", flush=True)
        one = statistics.median(times[1]), p95(times[1])
        for adapters, taken in times.items():
            median, high = statistics.median(taken), p95(taken)
            print(f"{adapters:5} adapters: median {median * 1e3:8.1f} ms ({median / one[0]:.2f} of one), "
                  f"p95 {high * 1e3:8.1f} ms ({high / one[1]:.2f})", flush=True)  # fmt: skip


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each figure")
    parser.add_argument("--mixed", action="store_true", help="what mixed adapters cost, against one adapter")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="which models")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    torch.set_num_threads(1)
    if arguments.mixed:
        for width in (96, 576, 2048):
            measure_mixed(width, seconds)
        return
    for line in table([SIZES[name] for name in arguments.sizes], seconds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
