"""CGC-LoRA as a tuning method: prepared, saved, loaded by the names of tasks, and served as one LoRA a task."""

from __future__ import annotations

import json

import pytest
import torch

from multitask_api.bundle import Adapter
from multitask_api.errors import UserError
from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.model.adapters import add_to_weights, attach_adapters
from multitask_serving.engine.model.loading import read_adapter
from multitask_serving.engine.model.lora import ActiveAdapters
from multitask_trainer.base_model.loading import load_base
from multitask_trainer.tuning import tuning_method
from multitask_trainer.tuning.cgc_lora import experts, folder
from support.cgc_fixtures import close, token_ids, train, tuner, weights_of
from support.tiny_families import tiny_model
from support.training_fixtures import small_decoder

TASKS = ("kind", "repeat", "tone")
IDS = token_ids(4)
ROWS = torch.tensor([2, 0, 1, 2])


def settings(**changes):
    return Tuning.model_validate({"method": "CGCLoRA", "rank": 8, "alpha": 12, **changes})


def method(tasks=TASKS, **changes):
    return tuning_method(settings(**changes), tasks)


def prepared(cgc, base_folder, *, seed=1):
    torch.manual_seed(seed)
    return cgc.prepare(load_base(base_folder)).eval()


def trained(cgc, base_folder, tasks=TASKS, *, seed=1):
    model = prepared(cgc, base_folder, seed=seed)
    train(model, [tasks] * 5)
    return model


def logits(cgc, model, tasks=ROWS):
    with torch.no_grad(), cgc.select_tasks(model, tasks):
        return model(input_ids=IDS).logits


def test_the_settings_of_the_resource_arrive(base_folder):
    model = prepared(method(rank=9, commonExperts=2, specificExperts=1, expertRank=3, gate="Uniform"), base_folder)
    config = tuner(model).config_of()
    assert (config.tasks, config.r, config.lora_alpha, config.scaling) == (list(TASKS), 9, 12, 12 / 9)
    assert config.layout == experts.ExpertLayout(tasks=3, common=2, specific=1, rank=3)
    assert not any("lora_gate" in name or "task_embedding" in name for name, _ in model.named_parameters())
    kinds = {name.split(".cgc_lora")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "cgc" in name}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_what_is_saved_can_be_loaded_and_trained_further_and_is_the_same_bytes(base_folder, tmp_path):
    cgc = method()
    first, second = trained(cgc, base_folder), prepared(cgc, base_folder, seed=2)
    cgc.save(first, tmp_path / "one")
    assert not torch.allclose(logits(cgc, first), logits(cgc, second), atol=1e-3)
    cgc.load(second, tmp_path / "one")
    close(logits(cgc, second), logits(cgc, first), 1e-6)
    cgc.save(second, tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_weights_are_loaded_by_the_names_of_tasks(base_folder, tmp_path):
    """From a stage with two of the tasks, in another order; the one that is new keeps what it began with."""
    before = method(("tone", "kind"), expertRank=2)
    source = trained(before, base_folder, ("tone", "kind"))
    before.save(source, tmp_path / "stage2")
    cgc = method(expertRank=2)
    model, fresh = prepared(cgc, base_folder, seed=5), prepared(cgc, base_folder, seed=5)
    cgc.load(model, tmp_path / "stage2")
    for name, number, there in (("kind", 0, 1), ("tone", 2, 0), ("common", 3, 2)):
        pairs = zip(weights_of(model, number), weights_of(source, there), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), name
    assert all(torch.equal(*pair) for pair in zip(weights_of(model, 1), weights_of(fresh, 1), strict=True))
    close(logits(cgc, model, torch.tensor([0, 2, 2, 0])), logits(before, source, torch.tensor([1, 0, 0, 1])))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"expertRank": 3}, "its expert_rank is 2, and here it is 3"),
        ({"specificExperts": 2, "rank": 14}, "its specific_experts is 1, and here it is 2"),
        ({"gate": "Uniform"}, "its gate is Task, and here it is Uniform"),
        ({"targetModules": ["q_proj"]}, "it has other layers: "),
    ],
)
def test_an_adapter_with_other_experts_or_layers_is_refused(changes, problem, base_folder, tmp_path):
    cgc, other = method(), method(**changes)
    cgc.save(prepared(cgc, base_folder), tmp_path)
    with pytest.raises(UserError, match=f"does not fit .{problem}.*; redo the stage"):
        other.load(prepared(other, base_folder), tmp_path)


def test_an_adapter_of_another_base_is_refused(base_folder, tmp_path):
    cgc = method()
    cgc.save(prepared(cgc, base_folder), tmp_path)
    other = cgc.prepare(small_decoder(hidden_size=64))
    with pytest.raises(UserError, match=r"and here it is .*; redo the stage"):
        cgc.load(other, tmp_path)


def served(cgc, tmp_path, tasks=TASKS, precision="fp32"):
    """The adapters of all tasks as the engine reads them."""
    found = []
    for task in tasks:
        cgc.write_servable(tmp_path, tmp_path / "weights", task, tmp_path / task, precision)
        about = json.loads((tmp_path / task / "adapter.json").read_text())
        assert about == {"rank": 4, "scaling": 1.5}
        found.append(read_adapter(tmp_path, Adapter(name=task, path=task, **about)))
    return found


def assert_served(cgc, base_folder, tmp_path):
    """The engine computes mixed rows, and the merged weights of each task, as the model that was trained."""
    model = trained(cgc, base_folder)
    cgc.save(model, tmp_path / "weights")
    adapters = served(tuning_method(settings()), tmp_path)
    live = logits(cgc, model)
    engine = load_base(base_folder).eval()
    active = ActiveAdapters(engine.device)
    attach_adapters(engine, adapters, active)
    with torch.no_grad(), active.use((ROWS + 1).tolist()):
        close(engine(input_ids=IDS).logits, live)
    for number, adapter in enumerate(adapters):
        merged = load_base(base_folder).eval()
        add_to_weights(merged, adapter)
        rows = (number == ROWS).nonzero()[:, 0]
        with torch.no_grad():
            close(merged(input_ids=IDS).logits[rows], live[rows])


def test_a_task_is_served_as_it_was_trained(base_folder, tmp_path):
    assert_served(method(), base_folder, tmp_path)


def without_weights(a, b, weights, layout, task):
    return experts.collapse(a, b, torch.ones_like(weights), layout, task)


def of_other_task(a, b, weights, layout, task):
    return experts.collapse(a, b, weights, layout, (task + 1) % layout.tasks)


def through_fp16(a, b, weights, layout, task):
    return experts.collapse(a.half(), b.half(), weights, layout, task)


@pytest.mark.parametrize("mistake", [without_weights, of_other_task, through_fp16])
def test_a_served_adapter_that_is_collapsed_wrong_is_noticed(mistake, base_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "collapse", mistake)
    with pytest.raises(AssertionError, match="differ"):
        assert_served(method(), base_folder, tmp_path)


def test_in_bf16_the_collapsed_factors_are_rounded_once(base_folder, tmp_path):
    cgc = method()
    cgc.save(trained(cgc, base_folder), tmp_path / "weights")
    exact, rounded = served(cgc, tmp_path, ["tone"]), served(cgc, tmp_path, ["tone"], "bf16")
    for path, (a, b) in exact[0].items():
        assert torch.equal(rounded[0][path][0].bfloat16(), a.bfloat16())
        assert torch.equal((rounded[0][path][1] / 1.5).bfloat16(), (b / 1.5).bfloat16())


def test_each_task_has_its_own_adapter_and_must_be_known(base_folder, tmp_path):
    cgc = method()
    assert [cgc.servable_key(task) for task in TASKS] == list(TASKS)
    cgc.save(prepared(cgc, base_folder), tmp_path)
    with pytest.raises(UserError, match="'mood' is not a task of this adapter; its tasks are kind, repeat, tone"):
        cgc.write_servable(base_folder, tmp_path, "mood", tmp_path / "mood", "fp32")


def test_rows_must_say_their_task(base_folder):
    with pytest.raises(ValueError, match="say of which task each row is"):
        method().select_tasks(prepared(method(), base_folder), None)


def test_gates_and_embeddings_have_no_weight_decay(base_folder):
    cgc = method()
    names = [name for name, value in prepared(cgc, base_folder).named_parameters() if value.requires_grad]
    kept = {name.split(".cgc_lora_")[-1] for name in names if not cgc.decays(name)}
    assert kept == {"gate.default", "task_embedding.default"}
    assert {name.split(".cgc_lora_")[-1] for name in names if cgc.decays(name)} == {"A.default", "B.default"}


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_the_served_form_is_checked_as_that_of_lora(family, base_folder):
    notices = tuning_method(settings()).check(lambda: tiny_model(family), "bf16")
    stacks = [text for text in notices if "CGCLoRA adapts linear layers only" in text]
    assert len(stacks) == (family == "mixtral")


def test_a_served_form_that_differs_is_refused(monkeypatch):
    monkeypatch.setattr("multitask_trainer.tuning.cgc_lora.layer.collapse", without_weights)
    with pytest.raises(UserError, match=r"tuning.method: CGCLoRA: adapters of .* would not be served as"):
        tuning_method(settings()).check(lambda: tiny_model("llama"), "fp32")


def test_a_name_that_is_no_layer_is_refused(base_folder):
    with pytest.raises(UserError, match=r"query: .*the layers that CGCLoRA adapts are called down_proj"):
        prepared(method(targetModules=["query"]), base_folder)
