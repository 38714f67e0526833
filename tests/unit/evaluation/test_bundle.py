"""The bundle stage: one bundle of all groups in the final dtype, and digests that change only with what they cover."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from multitask_api.bundle import PromptFormat
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.parameters import BundleParameters
from multitask_serving.engine.engine import Engine, read_bundle
from multitask_serving.engine.prompt.encoding import encode_prompt
from multitask_serving.engine.types import Request
from multitask_trainer.base_model.loading import load_tokenizer, read_prompt_format, write_prompt_format
from multitask_trainer.errors import StageError
from multitask_trainer.export.bundle import ServableWeights, assemble_bundle
from multitask_trainer.stages import bundle
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.tuning import tuning_method
from support.evaluation_fixtures import (
    INTENT,
    REPLY,
    URGENCY,
    EvaluationSuite,
    make_adapter,
    make_base,
    make_servable,
    train_result,
)

GROUPS = {"classification": (INTENT, URGENCY), "generation": (REPLY,)}
LORA = Tuning(method="LoRA", rank=3, alpha=6)
FULL = Tuning(method="Full")


def trained(suite, group, tuning, seed):
    """The mixture of a group, changed at random from the base."""
    suite.tuned = tuning_method(tuning)
    model = AutoModelForCausalLM.from_pretrained(suite.root / "artifacts" / "base" / "model")
    torch.manual_seed(seed)
    model = suite.tuned.prepare(model)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    folder = suite.scratch(f"mixture-{group}-{seed}")
    suite.tuned.save(model, folder / "weights")
    suite.artifact(f"mixture/{group}", train_result("x"), folder)


def run_bundle(suite, tuning, precision="fp32"):
    parameters = BundleParameters(
        groups={group: tuple(task.name for task in tasks) for group, tasks in GROUPS.items()},
        tasks=(INTENT, URGENCY, REPLY),
        tuning=tuning,
        precision=precision,
        max_length=100,
    )
    stage = suite.stage("bundle", "bundle", parameters)
    outcome = bundle.work(stage)
    return stage.artifact_folder / "bundle", outcome


@pytest.fixture
def suite(tmp_path):
    suite = EvaluationSuite(tmp_path, (INTENT, URGENCY, REPLY))
    make_base(suite.scratch("base") / "model")
    suite.artifact("base", train_result("x"), suite.scratch("base"))
    return suite


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_full_has_a_model_a_group(suite, precision):
    for seed, group in enumerate(GROUPS):
        trained(suite, group, FULL, seed)
    folder, outcome = run_bundle(suite, FULL, precision)
    bundle = read_bundle(folder)
    assert [model.name for model in bundle.models] == ["classification", "generation"]
    assert {task.name: task.model for task in bundle.tasks} == {
        "intent": "classification",
        "urgency": "classification",
        "reply": "generation",
    }
    weights = load_file(folder / bundle.models[0].path / "model.safetensors")
    wanted = torch.float32 if precision == "fp32" else torch.bfloat16
    assert {value.dtype for value in weights.values()} == {wanted}
    assert outcome.result.models["generation"] == (folder / "models/generation/model.safetensors").stat().st_size
    assert Engine.load(folder).classify([Request("intent", {"text": "order"})])[0].label in INTENT.labels


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lora_has_the_base_once_with_an_adapter_a_group(suite, precision):
    for seed, group in enumerate(GROUPS):
        trained(suite, group, LORA, seed)
    folder, outcome = run_bundle(suite, LORA, precision)
    (model,) = read_bundle(folder).models
    assert [(adapter.name, adapter.rank, adapter.scaling) for adapter in model.adapters] == [
        ("classification", 3, 2.0),
        ("generation", 3, 2.0),
    ]
    sizes = [path.stat().st_size for path in folder.rglob("*.safetensors")]
    assert len(sizes) == 3
    assert outcome.result.models == {"base": sum(sizes)}
    assert next(iter(load_file(folder / "models/base/model.safetensors").values())).dtype == (
        torch.float32 if precision == "fp32" else torch.bfloat16
    )
    engine = Engine.load(folder)
    assert engine.classify([Request("urgency", {"text": "order"})])[0].label in URGENCY.labels
    assert engine.generate_all([Request("reply", {"text": "order"})])[0].tokens


def test_a_groups_digest_covers_that_group_alone(suite):
    for seed, group in enumerate(GROUPS):
        trained(suite, group, LORA, seed)
    before = run_bundle(suite, LORA)[1].outputs
    assert run_bundle(suite, LORA)[1].outputs == before
    trained(suite, "generation", LORA, 7)
    after = run_bundle(suite, LORA)[1].outputs
    assert after["group/classification"] == before["group/classification"]
    assert after["group/generation"] != before["group/generation"]
    assert after["bundle"] != before["bundle"]


def join_space_and_o(base):
    """Give the tokenizer one token of two characters, as those of real models."""
    settings = json.loads((base / "tokenizer.json").read_text("utf-8"))
    settings["model"]["vocab"]["Ġo"] = settings["model"]["vocab"].pop("ÿ")
    settings["model"]["merges"] = [["Ġ", "o"]]
    (base / "tokenizer.json").write_text(json.dumps(settings), "utf-8")


@pytest.mark.parametrize(
    ("kept", "lead", "prefix"),
    [
        (None, None, ()),  # a base that an older release made
        (PromptFormat(), None, ()),
        (PromptFormat(seams="Joined"), " ", ()),
        (PromptFormat(seams="Joined", prefix=(5, 7)), " ", (5, 7)),
    ],
)
def test_a_served_prompt_has_the_ids_that_were_trained_and_keeps_to_the_format_of_the_base(suite, kept, lead, prefix):
    unpublished = make_base(suite.scratch("another-base") / "model")
    join_space_and_o(unpublished)
    if kept is not None:
        write_prompt_format(kept, unpublished)
    base = suite.artifact("base", train_result("x"), unpublished.parent) / "model"
    for seed, group in enumerate(GROUPS):
        trained(suite, group, LORA, seed)
    folder, _ = run_bundle(suite, LORA)
    served = Engine.load(folder).task("intent")
    assert [piece.lead for piece in served.pieces] == [None, lead, None]
    assert served.bos == prefix
    encoder = TaskEncoder.of(
        INTENT, load_tokenizer(base), max_length=100, chat_template=False, prompt_format=read_prompt_format(base)
    )
    assert (encoder.pieces, encoder.bos, encoder.labels) == (served.pieces, served.bos, served.labels)
    ids = encode_prompt(served.pieces, {"text": "order"}, load_tokenizer(base), max_tokens=90, bos=served.bos).ids
    joined = load_tokenizer(base).convert_tokens_to_ids("Ġo")
    assert (joined in ids) == (lead is not None)
    assert tuple(ids[: len(prefix)]) == prefix


def test_a_form_of_neither_kind_is_refused(suite, tmp_path):
    base = suite.root / "artifacts" / "base" / "model"
    with pytest.raises(StageError, match=r"neither model/ nor adapter\.safetensors"):
        assemble_bundle(
            tmp_path / "x",
            base=base,
            servables=[ServableWeights("a", tmp_path)],
            tasks=[],
            precision="fp32",
            max_length=50,
            revision="r",
        )


@pytest.mark.parametrize("kind", ["Full", "LoRA"])
def test_in_the_place_of_a_mixture_of_one_task_stands_its_baseline_as_it_was_evaluated(suite, kind):
    trained(suite, "classification", FULL if kind == "Full" else LORA, seed=1)
    folder = suite.scratch("baseline-reply")
    base = suite.root / "artifacts" / "base" / "model"
    if kind == "Full":
        make_servable(folder / "served", base, 3)
    else:
        make_adapter(folder / "served", 3)
    baseline = suite.artifact("baseline/reply/seed-17", train_result("reply"), folder)
    suite.addresses["mixture/generation"] = suite.addresses["baseline/reply/seed-17"]
    written, outcome = run_bundle(suite, FULL if kind == "Full" else LORA)
    reply = next(task for task in read_bundle(written).tasks if task.name == "reply")
    assert reply.served_by == "generation"
    path = "models/generation" if kind == "Full" else "adapters/base/generation"
    (weights,) = (written / path).glob("*.safetensors")
    (expected,) = baseline.rglob("*.safetensors")
    assert weights.read_bytes() == expected.read_bytes()
    assert {"group/generation", "group/classification", "bundle"} == set(outcome.outputs)
