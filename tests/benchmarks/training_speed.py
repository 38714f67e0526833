"""Training tokens a second against HF Trainer + PEFT, on the same rows and with equal loss.

    python tests/benchmarks/training_speed.py --out FOLDER [--bases tiny,small] [--methods LoRA,CGCLoRA,Full] …

Random bases of the shapes of SmolLM2 and Qwen2.5, made in memory. Ours are the steps of the training loop: its
batches, its loss, its optimizer. HF Trainer has rows padded by ``DataCollatorForSeq2Seq``, in the order of our global
batches, on a GPU ``bf16=True``, and for LoRA PEFT with the same layers, rank and α; its loss is ours, through
``compute_loss_func``. Both take turns step by step where the memory holds both. CGC-LoRA has no counterpart there.

Tokens are those of rows; padding does not count. Model FLOPs are what a step needs whatever the layout:
6 · N a token for Full, 4 · N + 6 · P for adapters of P weights, and attention, see `model_flops`; their share of the
chip's peak is printed for a GPU. Memory: on a GPU what a side has allocated at the most, without what the other holds
meanwhile; on a CPU the resident peak of a process of its own.

Every combination is a process of its own. FOLDER gets ``results.jsonl`` and ``page.md`` after each; later ones with the
same base, method, rows and device replace earlier ones on the page.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from support.training_speed.bases import LENGTHS, SHAPES
from support.training_speed.combination import Combination
from support.training_speed.page import lines_of, page_text
from support.training_speed.trial import measure

METHODS = ("LoRA", "CGCLoRA", "Full")


def sides_of(method: str) -> tuple[str, ...]:
    """Who can train so."""
    return ("ours",) if method == "CGCLoRA" else ("ours", "trainer")


def run_process(combination: Combination, sides: tuple[str, ...]) -> dict[str, Any]:
    """`measure` in a process of its own; only ``combination`` and ``failed`` where that did not end well."""
    with tempfile.TemporaryDirectory(prefix="training-speed-") as folder:
        record = Path(folder) / "record.json"
        order = json.dumps({"combination": vars(combination), "sides": sides, "record": str(record)})
        try:
            ended = subprocess.run(
                [sys.executable, __file__, "--child", order],
                capture_output=True,
                text=True,
                timeout=2 * combination.seconds + 60,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return {"combination": vars(combination), "failed": f"not done after {error.timeout:.0f} s"}
        if record.exists():
            result: dict[str, Any] = json.loads(record.read_text("utf-8"))
            return result
        sys.stderr.write(ended.stderr[-4000:])
        reason = (ended.stderr.strip().splitlines() or [f"ended with status {ended.returncode}"])[-1]
        return {"combination": vars(combination), "failed": reason}


def run_child(order: dict[str, Any]) -> None:
    """What `run_process` starts."""
    from transformers.utils import logging

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    combination = Combination(**order["combination"])
    torch.set_num_threads(combination.threads)
    record = Path(order["record"])
    result = measure(combination, sides=tuple(order["sides"]), folder=str(record.parent))
    record.write_text(json.dumps(result), "utf-8")


def add_memory(result: dict[str, Any], combination: Combination) -> None:
    """On a CPU, each side's resident peak in two steps, in a process of its own."""
    short = Combination(**(vars(combination) | {"steps": 1, "warmup": 1}))
    for side in sides_of(combination.method):
        alone = run_process(short, (side,))
        if side in result and "rss_mib" in alone:
            result[side]["peak_mib"] = alone["rss_mib"]


def per_base(text: str, base: str) -> str | None:
    """Of ``N`` or ``BASE=N,BASE=N`` what is for ``base``."""
    if "=" not in text:
        return text or None
    return dict(part.split("=", 1) for part in text.split(",")).get(base)


def main(arguments: list[str]) -> None:
    """Measure every combination, and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of results.jsonl and page.md")
    parser.add_argument("--bases", default="tiny", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rows", choices=list(LENGTHS), default="short", help="median 60 tokens, or 300")
    parser.add_argument("--batch-rows", type=int, default=64, help="rows of a step")
    parser.add_argument("--trainer-rows", type=int, default=16, help="per_device_train_batch_size of HF Trainer")
    parser.add_argument("--steps", type=int, default=8, help="steps that count")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--base-dtype", choices=["fp32", "bf16"], help="of a frozen base; default: bf16 on a GPU")
    parser.add_argument("--checkpointing", default="", help="bases with gradient checkpointing, on both sides")
    parser.add_argument("--micro-batch-tokens", default="", help="N, or BASE=N,…; default: what the product takes")
    parser.add_argument("--seconds-each", type=float, default=60, help="a combination begins no step later")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU, dense bf16; H100 and H200: 989")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        run_child(options.child)
        return
    bases, methods = options.bases.split(","), options.methods.split(",")
    checkpointing = [base for base in options.checkpointing.split(",") if base]
    unknown = sorted({*bases, *checkpointing} - {*SHAPES}) + sorted({*methods} - {*METHODS})
    if unknown or options.out is None:
        parser.error(f"unknown: {', '.join(unknown)}" if unknown else "--out: name a folder")
    if options.batch_rows % options.trainer_rows:
        parser.error("--trainer-rows: must divide --batch-rows, or the global batches differ")
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the process that measures ends too
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    for base in bases:
        tokens = per_base(options.micro_batch_tokens, base)
        for method in methods:
            combination = Combination(
                base=base, method=method, device=device, threads=options.threads, lengths=options.rows,
                batch_rows=options.batch_rows, trainer_rows=options.trainer_rows, steps=options.steps,
                warmup=options.warmup, seconds=options.seconds_each, checkpointing=base in checkpointing,
                base_dtype=options.base_dtype or ("fp32" if device == "cpu" else "bf16"), rank=options.rank,
                micro_batch_tokens=int(tokens) if tokens else None,
            )  # fmt: skip
            result = run_process(combination, sides_of(method))
            if device == "cpu" and "failed" not in result:
                add_memory(result, combination)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            kept = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
            (options.out / "page.md").write_text(page_text(kept, peak_tflops=options.peak_tflops), "utf-8")
            print("\n".join(lines_of(result, peak_tflops=options.peak_tflops)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
