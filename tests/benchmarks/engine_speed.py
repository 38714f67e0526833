"""How fast the engine answers, on one CPU thread: ``python tests/benchmarks/engine_speed.py``.

A random Llama (96 wide, 2 layers, vocabulary 4,096), requests of about 40 tokens, tokenisation included. Prints rows
a second for few and many labels, one request at a time and 256 in a call, without and with 8 mixed adapters, the same
labels scored as one sequence each (the naive way), and generated tokens a second.

``--mixed`` prints what mixing adapters costs instead: calls with 1, 8 and 100 adapters in turn, of 32 requests (and of
128 where the model is small), for the widths 96, 576 and 2,048; medians and 95th percentiles, and their ratio to the
calls with one adapter. These are seconds of the processor, which other work on the machine lengthens least.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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


def text(words: int) -> str:
    return " ".join(DRAW.choice(WORDS) for _ in range(words))


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


def make_engine(tokenizer: PreTrainedTokenizerFast, adapters: int, width: int = 96, rank: int = 8) -> Engine:
    config = LlamaConfig(
        vocab_size=4096, hidden_size=width, intermediate_size=width * 8 // 3 // 32 * 32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, initializer_range=0.2 * (96 / width) ** 0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)
    index = ActiveAdapters(model.device)
    linears = {name: layer for name, layer in model.model.named_modules() if isinstance(layer, torch.nn.Linear)}
    deltas = [
        {f"model.{name}": (torch.randn(rank, layer.in_features) * 0.1, torch.randn(layer.out_features, rank) * 0.1)
         for name, layer in linears.items()}
        for _ in range(adapters)
    ]  # fmt: skip
    attach_adapters(model, deltas, index)
    names: dict[str | None, int] = {None: 0} | {f"a{number}": number for number in range(1, adapters + 1)}
    pieces = compile_pieces(PROMPT, tokenizer)
    tasks = []
    for adapter in list(names)[1:] or [None]:
        for count in (5, 150):
            labels = compile_labels(
                [f"{text(1)} {i}" if count > 5 else WORDS[i] for i in range(count)], tokenizer, pieces
            )
            tasks.append(task(f"{count}-{adapter}", pieces, adapter, labels))
        tasks.append(task(f"text-{adapter}", pieces, adapter, ()))
    return Engine.from_parts(
        Bundle(revision="speed", models=(), tasks=tuple(tasks)), {"m": LoadedModel(model, tokenizer, index, names)}
    )


def task(name: str, pieces: Sequence[object], adapter: str | None, labels: tuple[LabelIds, ...]) -> ServedTask:
    return ServedTask(
        name=name, type="Classification" if labels else "Generation", model="m", adapter=adapter, pieces=tuple(pieces),
        eos=1, max_length=256, labels=labels, generation=None if labels else GenerationSettings(max_new_tokens=32),
    )  # fmt: skip


def rate(call: Callable[[], int], seconds: float) -> float:
    """Units a second, of the fastest of the calls that fit into ``seconds``: other work on the machine only slows."""
    call()
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        units = call()
        best = max(best, units / (time.perf_counter() - begin))
    return best


def naive(engine: Engine, tokenizer: PreTrainedTokenizerFast, name: str, rows: Sequence[Request]) -> int:
    """Every label of every row as a sequence of its own."""
    served = engine.task(name)
    tries = [LabelTrie.build([label], served.eos) for label in served.labels]
    for row in rows:
        ids = encode_prompt(served.pieces, row.fields, tokenizer, max_tokens=200).ids
        label_log_probs(engine._models["m"].model, [ids] * len(tries), tries)
    return len(rows)


def measure(tokenizer: PreTrainedTokenizerFast, adapters: int, seconds: float) -> None:
    """Print the figures of an engine with this many adapters."""
    engine = make_engine(tokenizer, adapters)
    kinds = [f"a{number}" for number in range(1, adapters + 1)] or ["None"]
    for count in (5, 150):
        names = [f"{count}-{kind}" for kind in kinds]
        rows = [Request(names[i % len(names)], {"text": text(DRAW.randint(8, 22))}) for i in range(256)]
        nodes = LabelTrie.build(engine.task(names[0]).labels, 1).size
        many = rate(lambda rows=rows: len(engine.classify(rows)), seconds)
        single = rate(lambda rows=rows[:16]: sum(len(engine.classify([row])) for row in rows), seconds)
        print(f"{adapters} adapters, {count:>3} labels ({nodes} nodes): {many:7.1f} rows/s, one a call {single:7.1f}")
        if not adapters:
            slow = rate(lambda rows=rows[:2], name=names[0]: naive(engine, tokenizer, name, rows), seconds)
            print(f"{'one sequence a label':>35}: {slow:7.1f} rows/s")
    rows = [Request(f"text-{kinds[i % len(kinds)]}", {"text": text(15)}) for i in range(32)]
    many = rate(lambda: sum(len(one.tokens) for one in engine.generate_all(rows)), seconds)
    single = rate(lambda: sum(len(one.tokens) for one in engine.generate_all(rows[:1])), seconds)
    print(f"{adapters} adapters, generation: {many:7.0f} tokens/s with 32 rows, {single:6.0f} with one")


def measure_mixed(tokenizer: PreTrainedTokenizerFast, width: int, seconds: float) -> None:
    """Print what 8 and 100 mixed adapters cost against one: the same calls in turn, so that all share the noise."""
    engine = make_engine(tokenizer, 100, width)
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
    arguments = parser.parse_args()
    seconds = arguments.seconds
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    if arguments.mixed:
        for width in (96, 576, 2048):
            measure_mixed(tokenizer, width, seconds)
        return
    for adapters in (0, 8):
        measure(tokenizer, adapters, seconds)


if __name__ == "__main__":
    main()
