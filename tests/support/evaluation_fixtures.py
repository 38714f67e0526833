"""A suite of tiny artifacts, as the training stages would leave them, for the tests of evaluation and export.

Models are small random Llamas that answer differently to different texts. Gold labels are what some model says, with
noise: so a test can choose which task's mixture is as good as its baseline.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from multitask_api.bundle import GenerationSettings
from multitask_api.stage_io.manifest import Manifest, StageOrder
from multitask_api.stage_io.parameters import EvaluateParameters, ExportParameters, StageParameters, TaskDefinition
from multitask_api.stage_io.results import (
    BaseResult,
    CurvePoint,
    EvaluateResult,
    ExportResult,
    PrepareResult,
    SplitRows,
    TaskPoint,
    TrainResult,
)
from multitask_api.types import Record
from multitask_serving.engine.engine import Engine
from multitask_trainer.data.rows import Row, input_hashes, write_inputs, write_rows
from multitask_trainer.evaluation.scoring import answer_rows, score_answers, write_scores
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.stages import evaluate, export
from multitask_trainer.storage.artifacts import publish
from multitask_trainer.storage.files import file_entries

WORDS = "order refund late card invoice login parcel price update cancel address broken please soon now never".split()  # noqa: SIM905
URGENCY = TaskDefinition(
    name="urgency", type="Classification", labels=("low", "top"), prompt="{text}\nUrgency:", metric="Accuracy"
)
INTENT = TaskDefinition(
    name="intent", type="Classification", labels=("buy", "ask", "moan"), prompt="Say: {text}\n", metric="MacroF1"
)
REPLY = TaskDefinition(
    name="reply",
    type="Generation",
    prompt="{text}\nReply:",
    metric="TokenF1",
    generation=GenerationSettings(max_new_tokens=6),
)


def make_base(folder: Path, seed: int = 0, size: int = 32) -> Path:
    """A transformers folder: a random Llama with wide weights and a byte-level tokenizer."""
    torch.manual_seed(seed)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_servable(folder: Path, base: Path, seed: int) -> Path:
    """Servable weights of a whole model: other random weights of the base's shape."""
    make_base(folder / "model", seed)
    return folder


def make_adapter(folder: Path, seed: int, rank: int = 4, size: int = 32) -> Path:
    """Servable weights of an adapter over two kinds of layer."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, name, out in itertools.product((0, 1), ("self_attn.q_proj", "mlp.up_proj"), (1,)):
        path = f"model.layers.{layer}.{name}"
        wide = size * 2 if name == "mlp.up_proj" else size
        tensors[f"{path}.A"] = torch.randn(rank, size, generator=random) * out
        tensors[f"{path}.B"] = torch.randn(wide, rank, generator=random) * 0.3
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter.safetensors")
    (folder / "adapter.json").write_text(f'{{"rank": {rank}, "scaling": 0.5}}')
    return folder


def make_texts(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 5)) for _ in range(count)]


@dataclass
class EvaluationSuite:
    """Artifacts by stage name, in ``root``."""

    root: Path
    tasks: Sequence[TaskDefinition]
    addresses: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def artifact(
        self,
        stage: str,
        result: Record,
        folder: Path | None = None,
        *,
        reads: Mapping[str, str] | None = None,
        **outputs: str,
    ) -> Path:
        """Publish ``folder`` (or nothing) as the artifact of ``stage``."""
        folder = folder or self.scratch(stage)
        folder.mkdir(parents=True, exist_ok=True)
        address = self.root / "artifacts" / stage
        kind = stage.partition("/")[0]
        manifest = Manifest(
            stage=stage,
            kind=kind,
            digest="d",
            version=1,
            read_outputs=dict(reads or {}),
            outputs=outputs or {"model": "d"},
            files=file_entries(folder),
            result=result.to_json(),
            seconds=1.0,
        )
        shutil.rmtree(address, ignore_errors=True)  # a result that is there would stay; tests make some twice
        publish(folder, str(address), manifest)
        self.addresses[stage] = str(address)
        return address

    def scratch(self, name: str) -> Path:
        return self.root / "scratch" / name

    def prepare(self, task: TaskDefinition, answers: Sequence[str], texts: Sequence[str], train: Sequence[Row]) -> None:
        """One task's artifact; ``answers`` are the gold ones of its test rows."""
        rows = [
            Row({"text": text}, label=answer) if task.labels else Row({"text": text}, targets=(answer,))
            for text, answer in zip(texts, answers, strict=True)
        ]
        folder = self.scratch(f"prepare/{task.name}")
        folder.mkdir(parents=True)
        splits = {"train": list(train), "validation": list(train[:2]), "test": rows}
        for split, part in splits.items():
            write_rows(folder, split, part)
        write_inputs(folder, {split: input_hashes(part) for split, part in splits.items()})
        counts = {label: sum(row.label == label for row in train) for label in task.labels}
        result = PrepareResult(
            rows=SplitRows(train=len(train), validation=2, test=len(rows)), label_counts={"train": counts}
        )
        self.artifact(f"prepare/{task.name}", result, folder, test="d")
        self.rows[task.name] = rows

    def baseline(self, task: TaskDefinition, servable: Path, *, seed: int = 1, **changes: object) -> None:
        """A trained seed: its servable weights, and its answers by the engine."""
        folder = self.scratch(f"baseline-{task.name}-{seed}")
        shutil.copytree(servable, folder / "served")
        answers = answer_rows(self.engine(servable, [task]), task, self.rows[task.name])
        write_scores(folder / "scores.parquet", answers)
        result = train_result(task.name, test_score=score_answers(task, answers)).model_copy(update=changes)
        name = f"baseline/{task.name}/seed-{seed}"
        self.artifact(name, result, folder, model=name)

    def bundle(
        self,
        servables: Mapping[str, tuple[Path, Sequence[TaskDefinition]]],
        precision: str = "fp32",
        reads: Mapping[str, str] | None = None,
    ) -> None:
        """The artifact of the bundle stage; ``servables``: group → its servable weights and its tasks."""
        folder = self.scratch("bundle")
        bindings = [TaskBinding(task, group, group) for group, (_, tasks) in servables.items() for task in tasks]
        servable_weights = [ServableWeights(group, servable) for group, (servable, _) in servables.items()]
        base = Path(self.addresses["base"]) / "model"
        assemble_bundle(
            folder / "bundle",
            base=base,
            servables=servable_weights,
            tasks=bindings,
            precision=precision,
            max_length=120,
            revision="r",
        )
        self.artifact("bundle", train_result("x"), folder, reads=reads)

    def engine(self, servable: Path, tasks: Sequence[TaskDefinition]) -> Engine:
        """An engine over one folder of servable weights."""
        folder = self.scratch("engine")
        shutil.rmtree(folder, ignore_errors=True)
        bindings = [TaskBinding(task, "it") for task in tasks]
        base = Path(self.addresses["base"]) / "model"
        assemble_bundle(
            folder,
            base=base,
            servables=[ServableWeights("it", servable)],
            tasks=bindings,
            precision="fp32",
            max_length=120,
            revision="r",
        )
        return Engine.load(folder, threads=1)

    def stage(self, name: str, kind: str, parameters: StageParameters) -> StageContext:
        """A stage about to run with every artifact so far as its input."""
        work = self.root / "work" / name.replace("/", "-")
        shutil.rmtree(work, ignore_errors=True)
        order = StageOrder(
            model="suite",
            stage=name,
            kind=kind,
            digest="d",
            version=1,
            parameters=parameters.to_json(),
            read_outputs={},
            inputs=dict(self.addresses),
            output=str(self.root / "artifacts" / name),
            work=str(work),
        )
        stage = StageContext(order, FileProgressReporter(name, None))
        stage.artifact_folder.mkdir(parents=True)
        return stage

    def publish(self, stage: StageContext, outcome: StageOutcome) -> Path:
        """What the frame does after the work."""
        return self.artifact(stage.order.stage, outcome.result, stage.artifact_folder, **outcome.outputs)


def train_result(task: str, **changes: object) -> TrainResult:
    point = TaskPoint(loss=0.5, score=0.8)
    result = TrainResult(
        steps=100,
        chosen_step=80,
        saturation_step=60,
        still_improving=False,
        curve=(CurvePoint(step=80, phase="constant", tasks={task: point}),),
        validation={task: point},
        rows_given={task: 800},
        tokens_given={task: 8000},
        tokens=8000,
        training_seconds=2.0,
    )
    return result.model_copy(update=changes)


def noisy(answers: Sequence[str], labels: Sequence[str], share: float, seed: int) -> list[str]:
    """Every answer with probability ``share`` replaced by a label drawn at random."""
    random = np.random.default_rng(seed)
    return [str(random.choice(list(labels))) if random.random() < share else answer for answer in answers]


# -- the suite that most tests use -------------------------------------------------------------------------------------

BASE = BaseResult(parameters=1, vocabulary=257, tasks=(), tokens=3000, tokens_per_second=1000.0)
GROUPS = {"classification": (INTENT, URGENCY), "generation": (REPLY,)}
TEXTS = make_texts(150, seed=1)
TRAIN = {
    "intent": [Row({"text": text}, label=INTENT.labels[i % 3]) for i, text in enumerate(make_texts(9, 2))],
    "urgency": [Row({"text": text}, label="low") for text in [*make_texts(4, 3), TEXTS[0], TEXTS[1].upper()]],
    "reply": [Row({"text": "a"}, targets=("never",))] * 3,
}


def suite_of(root, kind):
    """intent's baseline is its mixture; urgency's baseline is another model, which its gold labels come from."""
    suite = EvaluationSuite(root, (INTENT, URGENCY, REPLY))
    make_base(suite.scratch("base") / "model")
    suite.artifact("base", BASE, suite.scratch("base"))
    base = Path(suite.addresses["base"]) / "model"
    if kind == "Full":
        servables = [make_servable(suite.scratch(f"form-{seed}"), base, seed) for seed in (1, 2)]
    else:
        servables = [make_adapter(suite.scratch(f"form-{seed}"), seed) for seed in (1, 3)]
    good, other = servables
    for task, servable, noise in ((INTENT, good, 0.1), (URGENCY, other, 0.1), (REPLY, good, 0.0)):
        rows = [Row({"text": text}, label="") for text in TEXTS]
        predictions = [answer.prediction for answer in answer_rows(suite.engine(servable, [task]), task, rows)]
        gold = (
            noisy(predictions, task.labels, noise, seed=4) if task.labels else [text or "never" for text in predictions]
        )
        suite.prepare(task, gold, TEXTS, TRAIN[task.name])
    suite.baseline(INTENT, good)
    for seed in range(1, 6):
        suite.baseline(URGENCY, other, seed=seed)
    suite.bundle({group: (good, tasks) for group, tasks in GROUPS.items()})
    return suite


def run_evaluate(suite, **changes):
    results = {}
    for group, tasks in GROUPS.items():
        parameters = EvaluateParameters(group=group, tasks=tasks, threshold=0.99, rule="Point", seed=1)
        stage = suite.stage(f"evaluate/{group}", "evaluate", parameters.model_copy(update=changes))
        outcome = evaluate.work(stage)
        assert set(outcome.outputs) == {"verdicts", "answers"}
        suite.publish(stage, outcome)
        results[group] = EvaluateResult.model_validate(outcome.result.to_json())
    return {verdict.task: verdict for result in results.values() for verdict in result.tasks}


def export_parameters(groups=GROUPS, **changes):
    return ExportParameters(
        model="suite",
        groups={group: tuple(task.name for task in tasks) for group, tasks in groups.items()},
        tasks=tuple(task for tasks in groups.values() for task in tasks),
        promote="Qualified",
        precision="fp32",
    ).model_copy(update=changes)


def run_export(suite, **changes):
    stage = suite.stage("export", "export", export_parameters(**changes))
    outcome = export.work(stage)
    return suite.publish(stage, outcome), ExportResult.model_validate(outcome.result.to_json())


def exported_suite(
    root: Path, kind: str, declared: Mapping[str, float] | None = None, **changes: object
) -> EvaluationSuite:
    """`suite_of`, its mixtures' manifests, evaluated and exported."""
    suite = suite_of(root, kind)
    suite.artifact("mixture/classification", train_result("intent"))
    run_evaluate(suite, declared_baselines=declared or {})
    run_export(suite, **changes)
    return suite
