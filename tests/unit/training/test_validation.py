"""Validation gives the figures that training and serving would give, row by row."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from multitask_api.bundle import Bundle, PromptFormat, ServedModel, ServedTask
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.model.loading import LoadedModel
from multitask_serving.engine.types import Request
from multitask_trainer.base_model.builtin import make_model, make_tokenizer, size_of
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.training.batching.layouts import padded
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.training.validation import MAX_ROWS, TaskValidation, validate
from support.training_fixtures import TASKS, rows


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(
        [text for row in rows("kind", 300, 0) for text in (*row.fields.values(), " fruit", " tool")], 400
    )


@pytest.fixture(scope="module")
def model(tokenizer):
    sharpened = make_model(size_of("micro"), tokenizer, 1)
    with torch.no_grad():  # sharper than a fresh model, so that answers differ
        sharpened.model.embed_tokens.weight.mul_(12)
    return sharpened


def point(model, task, task_validation):
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    return validate(model, {task: task_validation}, select=nullcontext, accelerator=accelerator)[task]


def validation(tokenizer, task, count=80):
    encoder = TaskEncoder.of(TASKS[task], tokenizer, max_length=48, chat_template=False, prompt_format=PromptFormat())
    return TaskValidation.of(encoder, rows(task, count, 1))


@pytest.mark.parametrize("task", ["kind", "repeat"])
def test_the_loss_is_the_training_loss(tokenizer, model, task):
    task_validation = validation(tokenizer, task)
    given = [task_validation.dataset.row(index) for index in range(len(task_validation.dataset))]
    with torch.no_grad():
        expected = sum(float(RowMeanLoss(model)(batch)) for batch in padded(given, batch_rows=80, token_budget=999))
    assert point(model, task, task_validation).loss == pytest.approx(expected, abs=1e-5)


def test_the_score_of_a_classification_is_what_the_engine_would_score(tokenizer, model):
    task_validation = validation(tokenizer, "kind")
    encoder = task_validation.encoder
    served = ServedTask(
        name="kind",
        type="Classification",
        model="m",
        pieces=encoder.pieces,
        bos=encoder.bos,
        eos=encoder.eos,
        max_length=48,
        labels=encoder.labels,
    )
    bundle = Bundle(revision="r", models=(ServedModel(name="m", path="m", dtype="float32"),), tasks=(served,))
    engine = Engine.from_parts(bundle, {"m": LoadedModel.of(model, tokenizer)})
    given = rows("kind", 80, 1)
    answers = engine.classify([Request(task="kind", fields=row.fields) for row in given])
    right = sum(answer.label == row.label for answer, row in zip(answers, given, strict=True))
    assert 0 < right < 80
    assert point(model, "kind", task_validation).score == pytest.approx(right / 80)


def test_the_score_of_a_generation_is_the_share_of_its_tokens_that_are_first_choice(tokenizer, model):
    task_validation = validation(tokenizer, "repeat", count=20)
    shares = []
    for index in range(20):
        ids, prompt = task_validation.dataset.row(index)
        with torch.no_grad():
            best = model(torch.from_numpy(ids.astype("int64"))[None]).logits[0].argmax(-1)
        shares.append((best[prompt - 1 : -1].numpy() == ids[prompt:]).mean())
    assert point(model, "repeat", task_validation).score == pytest.approx(sum(shares) / 20)


def test_at_most_500_rows_are_taken_and_the_model_is_left_in_training(tokenizer, model):
    task_validation = validation(tokenizer, "kind", count=700)
    assert len(task_validation.dataset) == MAX_ROWS == 500
    model.train()
    point(model, "kind", validation(tokenizer, "kind", count=8))
    assert model.training


@pytest.mark.parametrize("task", ["kind", "repeat"])
def test_a_row_has_the_same_values_alone_and_in_a_batch(tokenizer, model, task):
    task_validation = validation(tokenizer, task, count=40)
    batches = task_validation.batches(300)
    assert len(batches) > 2
    assert sorted(row for batch in batches for row in batch) == list(range(40))
    for batch in batches:
        assert task_validation.cost(batch) <= 300
        alone = [task_validation.evaluate_batch(model, [row], token_budget=300) for row in batch]
        assert task_validation.evaluate_batch(model, batch, token_budget=300) == pytest.approx(
            np.concatenate(alone), rel=1e-5, abs=1e-5
        )
