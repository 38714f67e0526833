"""A tiny family from ``base`` to the engine, compared with plain transformers: a row of docs/results/base-models.md."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from multitask_api.bundle import Bundle, ForwardPath
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.results import BaseResult
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_trainer.base_model.loading import load_base
from multitask_trainer.errors import MergeChangesModel
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.export.routed_bundle import merge_only_adapter
from multitask_trainer.tuning import tuning_method
from multitask_trainer.tuning.targets import find_targets
from support.engine_builders import tokenizer
from support.family_table import REFUSED, USED, WRONG, FamilyRow
from support.plain_answers import ANSWER, SENTIMENT, TEXTS, greedy_answers, label_scores, plain_model
from support.tiny_families import (
    EXPERTS,
    HYBRID,
    OTHER_POSITIONS,
    PLAIN,
    SCALED,
    UNFIT,
    WINDOWED,
    WRAPPED,
    write_tiny_base,
)
from support.training_fixtures import TrainingSuite, base_parameters, optimisation, train_parameters

LORA = Tuning(method="LoRA", rank=4, alpha=8)
TRAINING = optimisation(
    batch_rows=8, learning_rate=2e-2, warmup_steps=1, eval_every=6, min_steps=0, max_length=80, seed=5
)
STEPS = 6
TOLERANCE = 2e-3
"""Largest difference of a label's score, in nats."""
SCORES = len(TEXTS) * len(SENTIMENT.labels)
"""How many are compared."""
LEAST_MOVED = 0.05
"""What training must change at least: scores of an adapter that does nothing would prove nothing."""
GROUPS = {
    "dense": PLAIN,
    "dense, scaled logits": SCALED,
    "sliding window": WINDOWED,
    "MoE": EXPERTS,
    "state space": HYBRID,
    "dense, positions by column": OTHER_POSITIONS,
    "multimodal text": WRAPPED,
    "encoder": UNFIT,
}
KINDS = {name: kind for kind, names in GROUPS.items() for name in names} | {
    "gpt2": "GPT-2-like (Conv1D)",
    "gemma2": "sliding window, scaled logits",
    "cohere2": "sliding window, scaled logits",
    "minicpm3": "dense, latent attention, scaled logits",
    "gpt_oss": "MoE, sliding window",
    "llama4_text": "MoE, chunked window",
    "deepseek_v2": "MoE, latent attention",
    "deepseek_v3": "MoE, latent attention",
    "qwen3_5_text": "linear attention hybrid",
    "olmo_hybrid": "linear attention hybrid",
    "qwen3_next": "linear attention hybrid, MoE",
    "lfm2": "short convolution hybrid",
    "recurrent_gemma": "recurrent hybrid",
    "granitemoehybrid": "state space hybrid, MoE, scaled logits",
    "jamba": "state space hybrid, MoE",
    **dict.fromkeys(["falcon_h1", "bamba", "nemotron_h", "zamba2"], "state space hybrid"),
    "gemma3": "multimodal text, sliding window",
    **dict.fromkeys(["deepseek_v32", "glm_moe_dsa"], "MoE, sparse latent attention"),
    **dict.fromkeys(["bert_decoder", "openai-gpt"], "dense"),
    "modernbert-decoder": "sliding window",
    "rwkv": "linear attention",
    "xlstm": "recurrent, scaled logits",
}


def try_family(family: str, folder: Path) -> FamilyRow:
    """Take ``family`` through the stages in ``folder``, and compare."""
    base = write_tiny_base(family, folder / "hub", tokenizer())
    architecture = json.loads((base / "config.json").read_text("utf-8"))["architectures"][0]
    row = FamilyRow(f"`{family}`", architecture, KINDS[family])
    suite = TrainingSuite(folder, train=64, others=6)
    tested = base_parameters(uri=str(base), optimisation=TRAINING, tuning=LORA)
    failure = suite.run_here(suite.order("base", tested))
    if failure is not None:
        refused = failure.kind == "UserError"
        return replace(
            row, verdict=f"{REFUSED if refused else f'{WRONG}: fails in `base`'}: {_sentence(failure.message)}"
        )
    result = BaseResult.model_validate(suite.manifest("base").result)
    path = result.forward_path or ForwardPath()
    row = replace(
        row,
        attention=path.attention,
        path=f"{path.isolation}, {path.labels}, {path.batches}",
        targets=_targets(suite.artifact("base") / "model"),
    )
    trained = train_parameters("baseline", max_steps=STEPS, optimisation=TRAINING, tuning=LORA)
    failure = suite.run_here(suite.order("baseline/kind", trained))
    if failure is not None:
        return replace(row, verdict=f"{WRONG}: fails in training: {_sentence(failure.message)}")
    try:
        return _compared(row, family, suite)
    except Exception as error:  # noqa: BLE001  whatever a family raises is its row's verdict
        traceback.print_exc()
        return replace(row, verdict=f"{WRONG}: fails when served: {type(error).__name__}: {_sentence(str(error))}")


def _compared(row: FamilyRow, family: str, suite: TrainingSuite) -> FamilyRow:
    base, trained = suite.artifact("base") / "model", suite.artifact("baseline/kind")
    bundle = assemble_bundle(
        suite.root / "bundle",
        base=base,
        servables=[ServableWeights("adapter", trained / "served")],
        tasks=[TaskBinding(SENTIMENT, "adapter"), TaskBinding(ANSWER, "adapter")],
        precision="fp32",
        max_length=TRAINING.max_length,
        revision="r",
    )
    sentiment, answer = bundle.tasks
    untrained = label_scores(plain_model(family, base), sentiment)
    tuning = tuning_method(LORA)  # not PeftModel.from_pretrained, which renames dense layers beside stacked experts
    reference = tuning.prepare(plain_model(family, base))
    tuning.load(reference, trained / "weights")
    reference.eval()
    expected, texts = label_scores(reference, sentiment), greedy_answers(reference, answer)
    difference, same = _served(suite.root / "bundle", bundle, expected, texts)
    moved = _largest(untrained, expected)
    merged, merged_right = _merged(bundle, suite, expected, texts)
    problems = [
        *([] if difference <= TOLERANCE else ["label scores differ"]),
        *([] if same else ["text differs"]),
        *([] if merged_right else ["merged weights give other answers"]),
        *([] if moved >= LEAST_MOVED else ["training changed nothing"]),
    ]
    return replace(
        row,
        moved=f"{moved:.2f}",
        difference=f"{difference:.1e}",
        text="equal" if same else "differs",
        merged=merged,
        verdict=f"{WRONG}: {', '.join(problems)}" if problems else USED,
    )


def _merged(
    bundle: Bundle, suite: TrainingSuite, expected: Sequence[Sequence[float]], texts: Sequence[tuple[int, ...]]
) -> tuple[str, bool]:
    """The cell, and whether it is right: merged and equal, or left unmerged, as export does."""
    target = suite.root / "merged"
    try:
        merged = merge_only_adapter(bundle, suite.root / "bundle", suite.artifact("base") / "model", "fp32", target)
    except MergeChangesModel as error:
        return f"served unmerged: {_sentence(str(error))}", True
    assert merged is not None
    difference, same = _served(target, merged, expected, texts)
    right = difference <= TOLERANCE and same
    return "equal" if right else f"differs by {difference:.1e}", right


def _served(
    folder: Path, bundle: Bundle, expected: Sequence[Sequence[float]], texts: Sequence[tuple[int, ...]]
) -> tuple[float, bool]:
    """The engine's largest difference of a label score, and whether its greedy texts are the same."""
    engine = Engine.load(folder)
    sentiment, answer = bundle.tasks
    answers = engine.classify([Request(sentiment.name, {"text": text}) for text in TEXTS])
    actual = [[row.log_probs[label.label] for label in sentiment.labels] for row in answers]
    written = engine.generate_all([Request(answer.name, {"text": text}) for text in TEXTS])
    return _largest(actual, expected), [text.tokens for text in written] == list(texts)


def _largest(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    difference = float(np.abs(np.array(one) - np.array(other)).max())
    return difference if difference == difference else float("inf")


def _targets(base: Path) -> str:
    targets = find_targets(load_base(base))
    parts = []
    for paths, what in ((targets.linear, ""), (targets.experts, " stacks")):
        if paths:
            names = Counter(path.rpartition(".")[2] for path in paths)
            parts.append(f"{' '.join(f'`{name}`' for name in sorted(names))} ({len(paths)}{what})")
    return ", ".join(parts)


def _sentence(message: str) -> str:
    """The first line, without the field, the names of folders and the advice, which is the same for all."""
    first = message.strip().splitlines()[0] if message.strip() else "no message"
    words = first.removeprefix("baseModel: ").partition(". Use another base model")[0].split()
    return " ".join("FOLDER" if word.startswith(("/", "file:/")) else word for word in words)
