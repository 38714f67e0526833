"""A base with linear attention through the stages as they run in production: base, baseline, served form, engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.results import BaseResult, TrainResult
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.tuning import tuning_method
from support.engine_builders import tokenizer
from support.tiny_families import write_tiny_base
from support.training_fixtures import (
    KIND,
    REPEAT,
    TrainingSuite,
    base_parameters,
    optimisation,
    rows,
    train_parameters,
)

pytestmark = pytest.mark.integration

LORA = Tuning(method="LoRA", rank=4, alpha=8)


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> TrainingSuite:
    suite = TrainingSuite(tmp_path_factory.mktemp("hybrid"))
    write_tiny_base("qwen3_5_text", suite.root / "hub", tokenizer())
    suite.run(suite.order("base", base_parameters(uri=str(suite.root / "hub"))))
    settings = optimisation(batch_rows=8, eval_every=4, min_steps=0)
    trained = train_parameters("baseline", max_steps=4, optimisation=settings, tuning=LORA)
    suite.run(suite.order("baseline/kind", trained))
    return suite


def test_the_manifest_says_how_the_base_is_run_and_why(suite):
    result = BaseResult.model_validate(suite.manifest("base").result)
    assert result.forward_path is not None
    assert (result.forward_path.isolation, result.forward_path.labels) == ("Rows", "PromptState")
    assert "change each other" in result.forward_path_reason


def test_validation_in_training_and_the_engine_agree_with_single_rows(suite, tmp_path):
    """The adapter's validation score and the engine's labels are those of one label at a time."""
    base, weights = suite.artifact("base") / "model", suite.artifact("baseline/kind") / "weights"
    servable = tmp_path / "servable"
    tuning_method(LORA).write_servable(base, weights, "kind", servable, "fp32")
    assemble_bundle(
        tmp_path / "bundle",
        base=base,
        servables=[ServableWeights("adapter", servable)],
        tasks=[TaskBinding(KIND, "adapter"), TaskBinding(REPEAT, "adapter")],
        precision="fp32",
        max_length=48,
        revision="r",
    )
    engine = Engine.load(tmp_path / "bundle")
    validation = rows("kind", 60, 1)
    answers = engine.classify([Request("kind", row.fields) for row in validation])

    expected = [_best_label(base, weights, row.fields["text"]) for row in validation[:10]]
    assert [answer.label for answer in answers[:10]] == [label for label, _ in expected]
    np.testing.assert_allclose(
        [answer.log_probs["tool"] for answer in answers[:10]], [p for _, p in expected], atol=1e-3
    )
    right = np.mean([answer.label == row.label for answer, row in zip(answers, validation, strict=True)])
    trained = TrainResult.model_validate(suite.manifest("baseline/kind").result)
    assert trained.validation["kind"].score == pytest.approx(right)
    assert all(
        text.tokens for text in engine.generate_all([Request("repeat", row.fields) for row in rows("repeat", 5, 1)])
    )


def _best_label(base: Path, weights: Path, text: str) -> tuple[str, float]:
    """By PEFT and transformers; and the log probability of "tool"."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), weights).eval()
    loaded = AutoTokenizer.from_pretrained(base)
    log_probs = {}
    for label in KIND.labels:
        prompt = [
            *loaded(text, add_special_tokens=False).input_ids,
            *loaded("\nKind:", add_special_tokens=False).input_ids,
        ]
        answer = [*loaded(f" {label}", add_special_tokens=False).input_ids, loaded.eos_token_id]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + answer[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
        log_probs[label] = float(logits.log_softmax(-1)[range(len(answer)), answer].sum())
    return max(log_probs, key=log_probs.__getitem__), log_probs["tool"]
