"""``mtm export``: what is written is what PEFT computes, and what vLLM and Triton's vLLM backend document."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from multitask_api.bundle import Adapter, Bundle
from multitask_api.errors import UserError
from multitask_serving.engine.engine import Engine, read_bundle
from multitask_serving.engine.types import Request
from multitask_trainer.adapter_export.__main__ import main
from multitask_trainer.adapter_export.folders import write_export
from multitask_trainer.adapter_export.peft_folder import VLLM_RANKS, padded_rank
from multitask_trainer.adapter_export.source import read_source
from multitask_trainer.export.bundle import write_bundle
from support.base_families import family
from support.engine_builders import llama, random_adapter, served_task
from support.engine_builders import write_bundle as write_small_bundle
from support.evaluation_fixtures import exported_suite

RANKS = {"one": 3, "shared": 8, "wide": 12}
FIELDS = {"text": "the invoice is late"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tasks on three adapters of one base; two tasks share one."""
    folder = tmp_path_factory.mktemp("exported")
    tasks = [
        served_task("topic", "{text} {{about}}:", labels=["a", "ab", "b"], adapter="one"),
        served_task("mood", "{text}:", labels=["glad", "cross"], adapter="shared"),
        served_task("reply", "{text}\n", adapter="shared", max_new_tokens=7, stop=["#"]),
        served_task("haste", "{text}!", labels=["x", "y"], adapter="wide"),
    ]
    adapters = {name: random_adapter(llama(), rank, rank) for name, rank in RANKS.items()}
    write_small_bundle(folder / "bundle", tasks, models={"base": llama()}, adapters={"base": adapters})
    (folder / "routes.yaml").write_text("metadata: {name: desk}\n")
    return folder


def change_bundle(artifact: Path, **changes: object) -> None:
    folder = artifact / "bundle"
    write_bundle(folder, read_bundle(folder).model_copy(update=changes))


def copy_of(artifact: Path, folder: Path) -> Path:
    subprocess.run(["cp", "-r", str(artifact), str(folder)], check=True)
    return folder


def export(artifact: Path, out: Path, target: str = "peft", base: str | None = None) -> Path:
    return write_export(read_source(artifact), target, out, base)


def read_json(path: Path) -> dict[str, object]:
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("target", ["peft", "vllm", "triton-vllm"])
def test_plain_peft_computes_with_an_exported_folder_what_the_engine_computes(artifact, tmp_path, target):
    folder = export(artifact, tmp_path, target)
    engine = Engine.load(artifact / "bundle")
    loaded = engine._models["base"]
    ids = torch.randint(3, 420, (2, 9), generator=torch.Generator().manual_seed(0))
    for task in engine.bundle.tasks:
        name = read_json(folder / "tasks.json")["tasks"][task.name]["adapter"]
        path = folder / "adapters" / name
        base = AutoModelForCausalLM.from_pretrained(PeftConfig.from_pretrained(path).base_model_name_or_path)
        model = PeftModel.from_pretrained(base, path).eval()
        with torch.inference_mode(), loaded.use_adapters([task.adapter] * 2):
            expected = loaded.model(input_ids=ids, use_cache=False).logits
            actual = model(input_ids=ids, use_cache=False).logits
            without = base_logits(ids)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
        assert (actual - without).abs().max() > 0.1


def base_logits(ids: torch.Tensor) -> torch.Tensor:
    return llama()(input_ids=ids, use_cache=False).logits


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")  # PEFT finds it out by itself, and says so
def test_a_gpt2_whose_weights_are_transposed_loads_too(tmp_path):
    model = family("gpt2")
    targets = {
        path: (layer.nx, layer.nf) for path, layer in model.named_modules() if path.endswith(("c_attn", "mlp.c_proj"))
    }
    generator = torch.Generator().manual_seed(0)
    weights = {
        path: (torch.randn(2, inside, generator=generator), torch.randn(out, 2, generator=generator))
        for path, (inside, out) in targets.items()
    }
    tasks = [served_task("t", "{text}", labels=["x", "y"], adapter="a")]
    write_small_bundle(tmp_path / "bundle", tasks, models={"base": model}, adapters={"base": {"a": weights}})
    (tmp_path / "routes.yaml").write_text("metadata: {name: desk}\n")
    folder = export(tmp_path, tmp_path / "out")
    loaded = Engine.load(tmp_path / "bundle")._models["base"]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "bundle/models/base")
    peft = PeftModel.from_pretrained(base, folder / "adapters/t").eval()
    ids = torch.arange(3, 12)[None]
    with torch.inference_mode(), loaded.use_adapters(["a"]):
        expected = loaded.model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(peft(input_ids=ids, use_cache=False).logits, expected, atol=1e-4, rtol=1e-5)


def test_one_folder_a_task_and_one_where_tasks_share_an_adapter(artifact, tmp_path):
    folder = export(artifact, tmp_path, base="org/base")
    assert {path.name for path in (folder / "adapters").iterdir()} == {"topic", "shared", "haste"}
    listed = read_json(folder / "tasks.json")
    assert listed["base"] == "org/base"
    assert listed["revision"] == "test"
    assert {name: task["adapter"] for name, task in listed["tasks"].items()} == {
        "topic": "topic",
        "mood": "shared",
        "reply": "shared",
        "haste": "haste",
    }
    assert (
        listed["tasks"]["reply"] | {"prompt": "{text}\n", "maxNewTokens": 7, "stop": ["#"]} == listed["tasks"]["reply"]
    )
    assert listed["tasks"]["topic"]["labels"] == ["a", "ab", "b"]
    assert listed["tasks"]["topic"]["answerPrefix"] == " "


def test_the_prompt_formats_to_the_text_that_the_engine_encodes(artifact, tmp_path):
    tasks = read_json(export(artifact, tmp_path) / "tasks.json")["tasks"]
    assert tasks["topic"]["prompt"].format(**FIELDS) == "the invoice is late {about}:"


@pytest.mark.parametrize(("target", "ranks"), [("peft", (3, 8, 12)), ("vllm", (8, 8, 16)), ("triton-vllm", (8, 8, 16))])
def test_the_scaling_is_in_b_and_the_rank_is_filled_up_with_zeros_where_the_target_wants_it(
    artifact, tmp_path, target, ranks
):
    folder = export(artifact, tmp_path, target, base="org/base")
    for name, (adapter, own), rank in zip(("topic", "shared", "haste"), RANKS.items(), ranks, strict=True):
        config = read_json(folder / "adapters" / name / "adapter_config.json")
        assert (config["r"], config["lora_alpha"]) == (rank, rank)
        assert (config["bias"], config["modules_to_save"], config["base_model_name_or_path"]) == (
            "none",
            None,
            "org/base",
        )
        tensors = load_file(folder / "adapters" / name / "adapter_model.safetensors")
        assert {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in tensors} == set(
            config["target_modules"]
        )
        stored = load_file(artifact / f"bundle/adapters/base/{adapter}/adapter.safetensors")
        for path in config["target_modules"]:
            a, b = (tensors[f"base_model.model.{path}.lora_{part}.weight"] for part in "AB")
            torch.testing.assert_close(a[:own], stored[f"{path}.A"], atol=0, rtol=0)
            torch.testing.assert_close(b[:, :own], stored[f"{path}.B"] * 0.5, atol=0, rtol=0)
            assert (len(a), b.shape[1]) == (rank, rank)
            assert not a[own:].any()
            assert not b[:, own:].any()


def test_another_revision_target_or_base_has_another_path_and_the_same_one_is_not_written_again(artifact, tmp_path):
    first = export(artifact, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert export(artifact, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    other = copy_of(artifact, tmp_path / "other")
    change_bundle(other, revision="another")
    names = {
        first.name,
        export(other, tmp_path / "out", base=str(read_source(artifact).base)).name,
        export(artifact, tmp_path / "out", "vllm").name,
        export(artifact, tmp_path / "out", base="org/base").name,
    }
    assert len(names) == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == names, "nothing temporary is left"


def test_a_damaged_export_is_whole_again_and_what_else_is_there_stays(artifact, tmp_path):
    folder = export(artifact, tmp_path / "out")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    cut, lost, _ = sorted(folder.rglob("adapter_model.safetensors"))
    cut.write_bytes(before[cut][:-8])
    shutil.rmtree(lost.parent)
    kept = folder / "notes.txt"
    kept.write_text("mine")
    assert export(artifact, tmp_path / "out") == folder
    assert {path: path.read_bytes() for path in before} == before
    assert kept.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named(artifact, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"/out cannot be written: File exists; name another folder with --out$"):
        export(artifact, tmp_path / "out")


def test_the_files_for_vllm_are_the_arguments_that_it_documents(artifact, tmp_path):
    folder = export(artifact, tmp_path, "vllm", base="org/base")
    modules = json.loads((folder / "lora-modules.json").read_text())
    assert [set(module) for module in modules] == [{"name", "path", "base_model_name"}] * 3
    assert all((Path(module["path"]) / "adapter_config.json").is_file() for module in modules)
    script = (folder / "serve.sh").read_text()
    words = shlex.split(script.partition("exec ")[2].replace("\\\n", " "))
    assert words[:3] == ["vllm", "serve", "org/base"]
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[words.index("--max-loras") + 1] == "3"
    assert [json.loads(word) for word in words[words.index("--lora-modules") + 1 :]] == modules
    subprocess.run(["sh", "-n", str(folder / "serve.sh")], check=True)


def test_the_model_repository_for_triton_is_that_of_its_vllm_backend(artifact, tmp_path):
    folder = export(artifact, tmp_path, "triton-vllm", base="org/base")
    model = folder / "model_repository" / "desk"
    assert sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()) == [
        "1/model.json",
        "1/multi_lora.json",
        "config.pbtxt",
    ]
    assert 'backend: "vllm"' in (model / "config.pbtxt").read_text()
    arguments = read_json(model / "1/model.json")
    assert arguments == {
        "model": "org/base",
        "dtype": "bfloat16",
        "enable_lora": True,
        "max_lora_rank": 16,
        "max_loras": 3,
    }
    paths = read_json(model / "1/multi_lora.json")
    assert list(paths) == ["topic", "shared", "haste"]
    for name, path in paths.items():
        assert Path(path) == folder / "adapters" / name
        assert read_json(Path(path) / "adapter_config.json")["r"] <= arguments["max_lora_rank"]


def test_a_rank_above_the_largest_of_the_target_is_refused_with_what_to_do():
    assert [padded_rank(rank, VLLM_RANKS) for rank in (1, 8, 9, 257, 512)] == [8, 8, 16, 320, 512]
    with pytest.raises(UserError, match=r"rank 513 is above 512.*lower tuning.rank, or export with --to peft"):
        padded_rank(513, VLLM_RANKS)


def test_whole_models_are_refused_with_what_to_do(artifact, tmp_path):
    other = copy_of(artifact, tmp_path / "other")
    tasks = [task.model_copy(update={"adapter": None}) for task in read_bundle(other / "bundle").tasks]
    change_bundle(other, tasks=tuple(tasks))
    with pytest.raises(
        UserError, match=r"whole models answer them \(topic, mood.*other/bundle/models/base\).*`vllm serve"
    ):
        read_source(other)


def test_stacked_experts_are_refused_with_what_to_do(tmp_path):
    model = family("mixtral")
    path = "model.layers.0.mlp.experts.down_proj"
    weights = {path: (torch.ones(4, 2, 48), torch.ones(4, 32, 2))}
    tasks = [served_task("t", "{text}", labels=["x", "y"], adapter="a")]
    write_small_bundle(tmp_path / "bundle", tasks, models={"base": model}, adapters={"base": {"a": weights}})
    (tmp_path / "routes.yaml").write_text("metadata: {name: desk}\n")
    with pytest.raises(UserError, match=r"stacked weights of experts .*targetModules that names linear layers only"):
        read_source(tmp_path)


def test_a_task_with_the_name_of_an_adapter_of_others_is_refused(artifact, tmp_path):
    other = copy_of(artifact, tmp_path / "other")
    bundle: Bundle = read_bundle(other / "bundle")
    renamed = {"topic": "shared"}
    tasks = tuple(task.model_copy(update={"name": renamed.get(task.name, task.name)}) for task in bundle.tasks)
    change_bundle(other, tasks=tasks)
    with pytest.raises(UserError, match=r"a task has the name of an adapter that other tasks share.*Rename"):
        read_source(other)


def test_an_adapter_that_no_task_uses_is_left_out(artifact, tmp_path):
    other = copy_of(artifact, tmp_path / "other")
    [model] = read_bundle(other / "bundle").models
    unused = Adapter(name="unused", path="adapters/base/gone", rank=1, scaling=1)
    change_bundle(other, models=(model.model_copy(update={"adapters": (unused, *model.adapters)}),))
    assert [adapter.name for adapter in read_source(other).adapters] == ["topic", "shared", "haste"]


def test_an_exported_run_answers_through_plain_peft_as_its_engine_does(tmp_path, capsys):
    """A group's adapter and the leftover baseline of another task, from the export stage to the scores of labels."""
    suite = exported_suite(tmp_path / "suite", "LoRA")
    artifact = Path(suite.addresses["export"])
    assert main([str(artifact), "--to", "peft", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "urgency" in printed
    [folder] = (tmp_path / "out").iterdir()
    listed = read_json(folder / "tasks.json")
    engine = Engine.load(artifact / "bundle")
    assert {task["adapter"] for task in listed["tasks"].values()} == {"intent", "urgency"}
    for name, task in listed["tasks"].items():
        base = AutoModelForCausalLM.from_pretrained(listed["base"])
        model = PeftModel.from_pretrained(base, folder / "adapters" / task["adapter"]).eval()
        tokenizer = AutoTokenizer.from_pretrained(listed["base"])
        prompt = [*task["bos"], *tokenizer(task["prompt"].format(text="a b")).input_ids]
        [answer] = engine.classify([Request(name, {"text": "a b"})])
        for label in engine.task(name).labels:
            ids = torch.tensor([[*prompt, *label.ids]])
            with torch.inference_mode():
                log_probs = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].log_softmax(-1)
            score = float(log_probs[range(len(label.ids) + 1), [*label.ids, task["eos"]]].sum())
            assert score == pytest.approx(answer.log_probs[label.label], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "routes.yaml").unlink(), "routes.yaml cannot be read"),
        (lambda folder: (folder / "bundle/bundle.json").unlink(), "bundle.json cannot be read"),
    ],
)
def test_a_folder_that_is_no_export_ends_with_status_2(artifact, tmp_path, change, message):
    other = copy_of(artifact, tmp_path / "other")
    change(other)
    done = subprocess.run(
        [sys.executable, "-m", "multitask_trainer.adapter_export", str(other), "--to", "peft", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
