"""How a model is trained: the budgets of the stages, qualification, pods."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from multitask_api.errors import Problem, raise_problems
from multitask_api.resource.pod_templates import FreeForm, PodTemplates
from multitask_api.resource.sources import Rate, Steps, StepsOrZero
from multitask_api.types import Record

GradientCheckpointing = Literal["Auto", "Always", "Never"]
"""Whether activations are computed again in the backward pass; ``Auto``: where memory is short."""

Sharding = Literal["Auto", "Always", "Never"]
"""Whether the processes of a training divide its weights; ``Auto``: where one GPU cannot hold them."""

Optimizer = Literal["AdamW", "AdamW8bit"]
"""``AdamW8bit``: its two moments in 8 bits, block by block (Dettmers et al., arXiv 2110.02861)."""

Tracker = Literal["TensorBoard", "WandB", "MLflow"]
"""An experiment tracker that gets the figures of a training run."""


class BaselineStage(Record):
    """Training of one model per task. A task qualifies by comparison with its baseline."""

    enabled: bool = Field(
        True,
        description="Train baselines. If false, no task can qualify, and a task without a declared baseline is not "
        "served.",
    )
    max_steps: Steps = Field(
        4000,
        description="Upper limit of optimizer steps of one run; early stopping may end it before.",
    )
    seeds: int = Field(
        1,
        ge=1,
        le=16,
        description="Number of runs of each task, with different seeds. Two or more measure how much the score varies; "
        "with one, no verdict is confirmed.",
    )
    learning_rate: Rate | None = Field(None, description="Learning rate of this stage. Default: training.learningRate.")


class HighResourceStage(Record):
    """Stage 2: training of each group on only those of its tasks that need many steps."""

    enabled: bool = Field(True, description="If false, training goes straight to the mixture stage.")
    min_saturation_steps: Steps | None = Field(
        None,
        description="A task belongs to this stage if the validation loss of its baseline was lowest at this step or "
        "later. Default: the tasks that saturate late in their group and that the mixture stage would give fewer rows "
        "than they need; the stage then lasts until they have them.",
    )
    max_steps: Steps = Field(3000, description="Upper limit of optimizer steps of the stage.")
    min_steps: StepsOrZero | None = Field(
        None,
        description="No early stopping before this step. Default: training.minSteps. Set it to maxSteps to switch "
        "early stopping off.",
    )
    seed: int | None = Field(None, ge=0, lt=2**31, description="Random seed of this stage. Default: training.seed.")
    learning_rate: Rate | None = Field(None, description="Learning rate of this stage. Default: training.learningRate.")


class MixtureStage(Record):
    """Stage 3: training of each group on all of its tasks, drawn with balanced rates."""

    temperature: float = Field(
        2.0,
        ge=1,
        le=100,
        description="τ. At 1 tasks are drawn in proportion to their rows; the higher it is, the more equal the rates.",
    )
    size_limit: int | None = Field(
        None,
        ge=1,
        description="K. A task with more rows is drawn as if it had K rows; no row is dropped. Default: no limit.",
    )
    max_steps: Steps | None = Field(
        None,
        description="Upper limit of optimizer steps of the stage. Default: the sum of the steps at which the baselines "
        "of the group were best.",
    )
    min_steps: StepsOrZero | None = Field(
        None,
        description="No early stopping before this step. Default: training.minSteps. Set it to maxSteps to switch "
        "early stopping off.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="Random seed of this stage. Default: training.seed. Another seed repeats the mixture with the same "
        "baselines.",
    )
    learning_rate: Rate | None = Field(None, description="Learning rate of this stage. Default: training.learningRate.")
    start: Literal["Previous"] | None = Field(
        None,
        description="Previous: begin with the weights of the group's latest mixture on the same base model with the "
        "same kind of adapters, if there is one, in place of stage 2. A finished mixture is not trained again. "
        "Default: begin with stage 2, or the base model.",
    )


class Stages(Record):
    """The budgets of the training stages, in optimizer steps of `training.batchRows` rows."""

    total_steps: Steps | None = Field(
        None,
        description="Optimizer steps of stages 2 and 3 of all groups together, for comparisons at equal cost. They are "
        "divided in proportion to what the mixtures of the groups have by default, in place of mixture.maxSteps; stage "
        "2 of a group takes at most half of its share. A group whose only task is answered by its baseline counts with "
        "the steps of that. Default: each stage has its own limit.",
    )
    validations: Steps | None = Field(
        None,
        description="Number of validations of each run of stages 2 and 3, at equal distances and at its limit of "
        "steps, in place of training.evalEvery. A run of fewer steps has one after each. Default: one every "
        "training.evalEvery steps.",
    )
    baseline: BaselineStage = Field(BaselineStage(), description="Training of one model per task, for comparison.")
    high_resource: HighResourceStage = Field(
        HighResourceStage(), description="Stage 2: training on the tasks of a group that need many steps."
    )
    mixture: MixtureStage = Field(MixtureStage(), description="Stage 3: training on all tasks of a group.")


class Qualification(Record):
    """When a task counts as good enough to be served by the shared model of its group."""

    threshold: float = Field(
        0.99, gt=0, le=1, description="Part of its baseline's test score that a task has to reach; 0.99 is 99 %."
    )
    rule: Literal["Point", "LowerBound"] = Field(
        "Point",
        description="What is compared with the threshold. Point: the ratio of the two scores. LowerBound: the lower "
        "end of its 95 % confidence interval, which needs stages.baseline.seeds of 2 or more.",
    )
    promote: Literal["Qualified", "AllQualified"] = Field(
        "Qualified",
        description="Qualified: each task that qualifies is served by the shared model, the others by their baselines. "
        "AllQualified: no new revision unless all tasks qualify.",
    )


class Training(Record):
    """Optimizer settings of every training stage and, in a cluster, the pods it runs in."""

    batch_rows: int = Field(64, ge=1, le=65536, description="Rows of one optimizer step, all GPUs together.")
    learning_rate: Rate = Field(
        2e-4,
        description="Learning rate between the warm-up and the final linear decay. The default is one for adapters; "
        "with tuning.method Full a base that knows language wants 1e-5 to 5e-5.",
    )
    warmup_steps: StepsOrZero = Field(100, description="Steps over which the learning rate rises linearly from zero.")
    max_length: int = Field(
        1024,
        ge=8,
        le=1_048_576,
        description="Largest length of prompt and answer together, in tokens. Longer prompts are shortened by cutting "
        "their fields.",
    )
    seed: int = Field(
        17,
        ge=0,
        lt=2**31,
        description="Random seed of batches, dropout and the initial weights of a builtin:// model. Further baseline "
        "runs use the seeds after it.",
    )
    eval_every: Steps = Field(200, description="Optimizer steps between two validations.")
    min_steps: StepsOrZero = Field(400, description="No early stopping before this step.")
    patience: Steps = Field(
        5,
        description="Early stopping of baselines and stage 2: number of validations in a row without a better score. "
        "A mixture has none: it stops when all of its tasks have reached their baselines and two validations brought "
        "no rise, else at its limit.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "bf16",
        description="Number format of training on a GPU and of the served weights. A CPU trains in fp32, and so does a "
        "GPU without bf16 (T4).",
    )
    optimizer: Optimizer | None = Field(
        None,
        description="AdamW8bit keeps AdamW's two moments in 8 bits instead of 32, which takes 6 bytes a trained weight "
        "less; embeddings keep 32. Needs the Python package bitsandbytes where the model trains, and a method other "
        "than CGCLoRA. GPUs do not divide such moments (sharding) where all weights are trained. Default: AdamW.",
    )
    gradient_checkpointing: GradientCheckpointing | None = Field(
        None,
        description="Whether the activations of a layer are computed again in the backward pass instead of kept, which "
        "takes much less memory and about a third more time. Auto: on a GPU whose memory is too short without. Always. "
        "Never. It does not change what is learnt, beyond rounding. Default: Auto.",
    )
    sharding: Sharding | None = Field(
        None,
        description="Whether the GPUs of a training stage divide weights, gradients and optimizer states among them "
        "(FSDP), instead of each holding all. Auto: where they do not fit into one GPU. Always. Never. Needs several "
        "GPUs or nodes, and does not change what is learnt, beyond rounding. Default: Auto.",
    )
    report_to: Annotated[tuple[Tracker, ...], Field(max_length=3)] | None = Field(
        None,
        description="Experiment trackers that get loss, learning rate, tokens per second and the validation of each "
        "task: TensorBoard, WandB (Weights & Biases), MLflow. They are configured by their own environment variables, "
        "such as WANDB_API_KEY and MLFLOW_TRACKING_URI, and their Python packages have to be installed where the model "
        "trains. Default: none.",
    )
    nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="Pods that share one training Job in a cluster. More than one needs storage that several nodes can "
        "mount (ReadWriteMany), or s3:// or gs://.",
    )
    gpus_per_node: int = Field(
        1,
        ge=0,
        le=16,
        description="GPUs of each pod of training and of evaluation; with device claims, the number of GPUs that they "
        "give. 0 trains on the CPU, also on one machine.",
    )
    max_parallel_jobs: int = Field(
        4,
        ge=1,
        le=128,
        description="Upper limit of stage Jobs that run at the same time. Baselines that can share a GPU are put into "
        "as many Jobs as may run. On one machine, if set, the upper limit of stage processes.",
    )
    resources: FreeForm = Field(
        default_factory=dict,
        description="Resources of the containers that load a model, with requests, limits and claims as in a Pod. "
        "Default: 1 CPU and 1Gi of memory are requested. Stages that use no GPU while others do take only memory, "
        "ephemeral-storage and the limit of CPU from it. resolve, prepare, filter, gc and clean-up load no model; "
        "they have small requests and limits of their own, which podTemplates changes. GPUs are set by gpusPerNode.",
    )
    active_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="Seconds that the Job of one stage may take in a cluster, its waits and attempts included; then it "
        "fails for good. A Job of several stages may take as many times that. Default: no limit. Without it too, the "
        "conditions name a stage that reports no progress for 15 minutes.",
    )
    queue_name: Annotated[str, StringConstraints(max_length=63)] | None = Field(
        None,
        description="The Kueue LocalQueue that admits the stage Jobs. Default: Jobs start without Kueue.",
    )
    pod_template: FreeForm = Field(
        default_factory=dict,
        description="Additions to all stage pods (metadata and spec), applied as a strategic merge patch: volumes, "
        "variables, sidecars. The stage container is called trainer. Labels and annotations also go on the Job. Device "
        "claims (resourceClaims) are for the stages that use a GPU, in place of the GPU resource. Default: no "
        "additions.",
    )
    pod_templates: PodTemplates | None = Field(
        None,
        description="Additions to the pods of some stages, applied after podTemplate: those with a GPU, those without, "
        "or those of one kind of stage. Default: no additions.",
    )

    @field_validator("optimizer")
    @classmethod
    def _adamw_is_the_default(cls, value: Optimizer | None) -> Optimizer | None:
        """So that it has the digest of a file without the field."""
        return None if value == "AdamW" else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        trackers = self.report_to or ()
        problems = [
            Problem("reportTo", f"{name} occurs more than once; remove the duplicates")
            for name in sorted(set(trackers))
            if trackers.count(name) > 1
        ]
        if self.sharding == "Always" and self.gpus_per_node == 0:
            problems.append(Problem("sharding", "Always needs GPUs, and gpusPerNode is 0; raise it, or set Auto"))
        elif self.sharding == "Always" and self.nodes * self.gpus_per_node == 1:
            problems.append(Problem("sharding", "Always needs several GPUs; raise gpusPerNode or nodes, or set Auto"))
        raise_problems(problems)
        return self
