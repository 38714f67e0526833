"""The arms of ``tuning_methods.py``: which weights each trains, and how one run of an arm is trained and scored.

An arm trains one model for all tasks, or one a task with the rows that the task has in the mixture. Everything else is
equal: base, rows in all, rows a batch, order of rows for one seed, schedule, validations, and the rule that chooses the
checkpoint.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stage_runs import peak_memory, run_stage

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.parameters import Optimisation, TaskDefinition, TrainParameters
from multitask_api.stage_io.results import TrainResult
from multitask_operator.study.arms import NO_EARLY_STOP
from multitask_serving.engine.engine import Engine
from multitask_trainer.data.rows import read_rows
from multitask_trainer.evaluation.answers import Answer, read_scores, write_scores
from multitask_trainer.evaluation.metrics import score
from multitask_trainer.evaluation.scoring import answer_rows
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.tuning import TuningMethod, tuning_method

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.other_methods.mtl_lora import UPS
from support.other_methods.poly import SKILLS
from support.other_methods.train import METHODS

FIRST_RATE = 1e-3
"""Where the rate does not matter."""


@dataclass(frozen=True)
class Arm:
    """One way to tune; ``tuning`` has the fields of ``spec.tuning``."""

    name: str
    title: str
    tuning: Mapping[str, Any] = field(hash=False)
    one_model_a_task: bool = False
    is_main: bool = False
    """Main arms are repeated with every seed."""
    other: str | None = None
    """The name of a method that is not the product's, of ``support/other_methods``."""


def arms(tasks: int, rank: int) -> list[Arm]:
    """The arms for a group of ``tasks`` tasks and the budget of a plain LoRA of ``rank``."""
    lora = {"method": "LoRA", "rank": rank, "alpha": 2.0 * rank}
    cgc = lora | {"method": "CGCLoRA"}
    experts = 1 + tasks
    return [
        Arm("lora", f"LoRA, rank {rank}", lora, is_main=True),
        Arm("lora-2x", f"LoRA, rank {2 * rank}", lora | {"rank": 2 * rank, "alpha": 4.0 * rank}, is_main=True),
        Arm("lora-4x", f"LoRA, rank {4 * rank}", lora | {"rank": 4 * rank, "alpha": 8.0 * rank}, is_main=True),
        Arm("cgc", "CGC-LoRA, 1 common and 1 specific expert", cgc, is_main=True),
        Arm("cgc-uniform", "CGC-LoRA without a gate (equal weights)", cgc | {"gate": "Uniform"}),
        Arm("moe", f"MOE-LoRA: {experts} common experts, gate by task", cgc | _common(experts)),
        Arm("common", f"{experts} common experts, no gate", cgc | _common(experts) | {"gate": "Uniform"}),
        Arm("specific", "specific experts only", cgc | _specific(rank // experts)),
        Arm("mtl-lora", f"MTL-LoRA, {UPS} projections up of rank {rank // 2}", lora, other="mtl-lora"),
        Arm("poly", f"Poly of PEFT, {SKILLS} skills of rank {rank // SKILLS}", lora, other="poly"),
        Arm("lora-a-task", f"one LoRA a task, rank {rank}", lora, one_model_a_task=True),
        Arm("full", "Full", {"method": "Full"}),
    ]


def _common(experts: int) -> dict[str, Any]:
    return {"commonExperts": experts, "specificExperts": 0}


def _specific(expert_rank: int) -> dict[str, Any]:
    return {"commonExperts": 0, "specificExperts": 1, "expertRank": expert_rank}


@dataclass(frozen=True)
class Setting:
    """What all arms have in common. ``inputs`` are the artifacts of ``prepare/<task>`` and ``base``."""

    folder: Path
    tasks: Sequence[TaskDefinition]
    inputs: Mapping[str, Path]
    rows: Mapping[str, int]
    """Task → rows of its training split."""
    steps: int
    batch_rows: int
    validations: int
    temperature: float = 2.0

    @property
    def probabilities(self) -> dict[str, float]:
        """Task → p_i ∝ n_i^(1/τ) (arXiv 2411.03644)."""
        powers = {task.name: self.rows[task.name] ** (1 / self.temperature) for task in self.tasks}
        return {name: power / sum(powers.values()) for name, power in powers.items()}

    def optimisation(self, rate: float, seed: int, steps: int) -> Optimisation:
        """No early stopping; validations at equal distances."""
        return Optimisation(
            batch_rows=self.batch_rows,
            learning_rate=rate,
            warmup_steps=max(1, steps // 20),
            max_length=192,
            seed=seed,
            eval_every=max(1, math.ceil(steps / self.validations)),
            min_steps=NO_EARLY_STOP,
            patience=NO_EARLY_STOP,
            precision="fp32",
        )


@dataclass(frozen=True)
class Run:
    """An arm with one learning rate and one seed."""

    arm: Arm
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm.name}-{self.rate:g}-{self.seed}"


@dataclass(frozen=True)
class Trained:
    """What training gave, of all of an arm's models together."""

    validation: float
    """Mean over tasks of the score on validation rows."""
    parameters: int
    seconds: float
    """In training steps, of all of the run's models."""
    memory: int
    """Bytes resident at most, of one process."""
    weights: Mapping[str, Path]
    """Task → the artifact that holds its weights."""


def train(run: Run, setting: Setting) -> Trained:
    """Train the run's models, unless that has been done."""
    results: dict[str, TrainResult] = {}
    weights: dict[str, Path] = {}
    memory = 0
    for stage, tasks in _stages(run, setting).items():
        artifact = run_stage(
            setting.folder,
            stage,
            _parameters(run, setting, tasks),
            dict(setting.inputs),
            program=("support/other_methods/train.py", run.arm.other) if run.arm.other else (),
        )
        manifest = Manifest.model_validate_json((artifact / "manifest.json").read_text("utf-8"))
        results[stage] = TrainResult.model_validate(manifest.result)
        weights |= {task.name: artifact for task in tasks}
        memory = max(memory, peak_memory(setting.folder, stage))
    scores = [point.score for result in results.values() for point in result.validation.values()]
    return Trained(
        validation=sum(scores) / len(scores),
        parameters=sum(result.trainable_parameters for result in results.values()),
        seconds=sum(result.training_seconds for result in results.values()),
        memory=memory,
        weights=weights,
    )


def _stages(run: Run, setting: Setting) -> dict[str, list[TaskDefinition]]:
    if run.arm.one_model_a_task:
        return {f"mixture/{run.name}/{task.name}": [task] for task in setting.tasks}
    return {f"mixture/{run.name}": list(setting.tasks)}


def _parameters(run: Run, setting: Setting, tasks: Sequence[TaskDefinition]) -> TrainParameters:
    shares = {task.name: setting.probabilities[task.name] for task in tasks}
    total = sum(shares.values())
    steps = max(1, round(setting.steps * total))
    return TrainParameters(
        kind="mixture",
        tasks=tuple(tasks),
        probabilities={name: share / total for name, share in shares.items()},
        max_steps=steps,
        optimisation=setting.optimisation(run.rate, run.seed, steps),
        tuning=_tuning(run.arm, tasks),
    )


def _tuning(arm: Arm, tasks: Sequence[TaskDefinition]) -> Tuning:
    return Tuning.model_validate(arm.tuning).for_group([task.name for task in tasks])


def method_of(arm: Arm, tasks: Sequence[TaskDefinition]) -> TuningMethod:
    """The method of a run on these tasks."""
    make = METHODS[arm.other] if arm.other else tuning_method
    return make(_tuning(arm, tasks), [task.name for task in tasks])


def answer(run: Run, setting: Setting, trained: Trained) -> tuple[dict[str, list[Answer]], int]:
    """Task → the answers of the served form to its test rows; and the bytes that are served beside the base.

    The engine that serves gives them, from a bundle as it would be served.
    """
    folder = setting.folder / "scores" / run.name
    done = folder / "served.json"
    if not done.exists():
        _answer(run, setting, trained, folder)
    answers = {task.name: read_scores(folder / f"{task.name}.parquet") for task in setting.tasks}
    return answers, int(json.loads(done.read_text("utf-8"))["bytes"])


def _answer(run: Run, setting: Setting, trained: Trained, folder: Path) -> None:
    base = setting.inputs["base"] / "model"
    servables: dict[str, ServableWeights] = {}
    bindings = []
    for tasks in _stages(run, setting).values():
        method = method_of(run.arm, tasks)
        for task in tasks:
            prefix = f"{task.name}-" if run.arm.one_model_a_task else ""
            name = prefix + method.servable_key(task.name)
            if name not in servables:
                target = folder / "served" / name
                method.write_servable(base, trained.weights[task.name] / "weights", task.name, target, "fp32")
                servables[name] = ServableWeights(name, target)
            bindings.append(TaskBinding(task, name))
    bundle = folder / "bundle"
    assemble_bundle(
        bundle,
        base=base,
        servables=list(servables.values()),
        tasks=bindings,
        precision="fp32",
        max_length=192,
        revision="0" * 12,
    )
    engine = Engine.load(bundle, device="cpu", threads=1)
    for task in setting.tasks:
        rows = read_rows(setting.inputs[f"prepare/{task.name}"], "test")
        write_scores(folder / f"{task.name}.parquet", answer_rows(engine, task, rows))
    size = sum(file.stat().st_size for file in (folder / "served").rglob("*") if file.is_file())
    (folder / "served.json").write_text(json.dumps({"bytes": size}), "utf-8")


def mean_score(tasks: Sequence[TaskDefinition], answers: Mapping[str, Sequence[Answer]]) -> float:
    """The mean over tasks of the metric on the test rows."""
    return sum(task_score(task, answers[task.name]) for task in tasks) / len(tasks)


def task_score(task: TaskDefinition, answers: Sequence[Answer]) -> float:
    """The task's metric over all answers."""
    references = [item.gold for item in answers]
    return score(task.metric, [item.prediction for item in answers], references, task.labels, task.language)
