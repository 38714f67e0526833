"""``MultiTaskModel.spec``: everything a user declares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from multitask_api.bundle import GenerationSettings
from multitask_api.errors import Problem
from multitask_api.resource.problems import refuse
from multitask_api.resource.tasks import Address, DataSource, DnsLabel, TaskSpec
from multitask_api.types import Record
from multitask_api.uris import STORES, base_model_uri_error, uri_error

Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]
#: Kubernetes objects that are passed through as they are.
FreeForm = dict[str, Any]


def _base_address(address: str) -> str:
    return _checked(address, base_model_uri_error(address))


def _store_address(address: str) -> str:
    return _checked(address, uri_error(address, STORES))


def _checked(address: str, fault: str | None) -> str:
    if fault is not None:
        raise ValueError(fault)
    return address


BaseAddress = Annotated[Address, AfterValidator(_base_address)]
StoreAddress = Annotated[Address, AfterValidator(_store_address)]


class BaseModelSource(Record):
    """The base LLM that every group starts from."""

    uri: BaseAddress = Field(description="hf://ORG/NAME, s3://…, pvc://CLAIM/PATH, file://…, builtin://SIZE")
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None,
        description="Hub branch, tag or commit; resolved to a commit once a run. Of a built-in base any text: another "
        "one makes it anew.",
    )
    chat_template: bool = Field(False, description="Wrap prompts in the tokenizer's chat template (instruct bases).")


class Storage(Record):
    """Where artifacts live."""

    uri: StoreAddress
    retain: bool = Field(
        True,
        description="Keep the artifacts when the resource is deleted. False: remove what its runs wrote, unless "
        "another MultiTaskModel of the namespace names this address, or one above or below it.",
    )
    keep_revisions: int = Field(3, ge=1, le=100)


class SecretName(Record):
    """A Secret in the resource's namespace."""

    name: Name


class Credential(Record):
    """A Secret whose keys become environment variables of this model's pods."""

    secret_ref: SecretName


class Pretraining(Record):
    """Continual pre-training of the base on the domain's text, before any task is trained."""

    tasks_text: bool = Field(True, description="Use the tasks' train inputs and targets (never validation or test).")
    corpus: Annotated[tuple[DataSource, ...], Field(max_length=64)] = ()
    max_steps: int = Field(ge=1)
    refresh: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        None, description="Any string; changing it makes the base anew."
    )

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.tasks_text and not self.corpus:
            refuse([Problem("corpus", "there is no text to train on; name a corpus or set tasksText: true")])
        return self


class Filtering(Record):
    """How tasks are put into groups (stage 1 of arXiv 2411.03644)."""

    strategy: Literal["Type", "Taxonomy", "Manual", "None"] = Field(
        "Type",
        description="Type: classification and generation apart. Taxonomy: binary, ordinal and multi-class apart too. "
        "Manual: by task.group. None: all in one.",
    )


class BaselineStage(Record):
    """Single-task training, the yardstick of every task."""

    enabled: bool = Field(True, description="Without baselines no task can qualify.")
    max_steps: int = Field(4000, ge=1, description="Limit of one run.")
    seeds: int = Field(1, ge=1, le=16, description="Runs a task; 2 or more let verdicts be confirmed.")


class HighResourceStage(Record):
    """Stage 2: training on the tasks that need many steps."""

    enabled: bool = Field(True, description="False goes straight to the mixture.")
    min_saturation_steps: int | None = Field(None, ge=1, description="Without it the set is chosen automatically.")
    max_steps: int = Field(3000, ge=1, description="Limit of the stage.")
    min_steps: int | None = Field(None, ge=0, description="Default: training.minSteps; maxSteps here: no early stop.")
    seed: int | None = Field(None, ge=0, lt=2**31, description="Default: training.seed.")


class MixtureStage(Record):
    """Stage 3: training on all tasks of a group."""

    temperature: float = Field(
        2.0, ge=1, le=100, description="τ: 1 draws tasks by their rows; the higher, the more alike the rates."
    )
    size_limit: int | None = Field(None, ge=1, description="K: the row count above which a task's rate stops growing.")
    max_steps: int | None = Field(
        None, ge=1, description="Default: the sum of the baselines' rows at their chosen checkpoints."
    )
    min_steps: int | None = Field(None, ge=0, description="Default: training.minSteps; maxSteps here: no early stop.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="Default: training.seed. Another seed repeats the mixture on the same baselines.",
    )


class Stages(Record):
    """The budgets of the training stages; a step is ``training.batchRows`` rows."""

    baseline: BaselineStage = BaselineStage()
    high_resource: HighResourceStage = HighResourceStage()
    mixture: MixtureStage = MixtureStage()


class Tuning(Record):
    """What is trained: all weights, or low-rank adapters."""

    method: Literal["Full", "LoRA", "CGCLoRA"] = Field("LoRA", description="CGCLoRA is not available yet.")
    rank: int = Field(16, ge=1, le=1024, description="r, of the low-rank product.")
    alpha: float = Field(32, gt=0, description="α; the product is scaled by α / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="On the adapters' input, in training.")
    target_modules: Annotated[tuple[Name, ...], Field(max_length=64)] = Field(
        (), description="Linear layers to adapt, by the last part of their name; default: all of the decoder."
    )


class Qualification(Record):
    """The bar a task must pass to be served by a mixture."""

    threshold: float = Field(0.99, gt=0, le=1, description="Share of the single-task score that a task must reach.")
    rule: Literal["Point", "LowerBound"] = Field(
        "Point", description="What must reach the threshold: the ratio, or the lower end of its 95 % interval."
    )
    promote: Literal["Qualified", "AllQualified"] = Field(
        "Qualified", description="Serve each task that qualifies from the mixture, or nothing new unless all qualify."
    )


class Training(Record):
    """How every training stage trains, and (cluster only) the pods it runs in."""

    batch_rows: int = Field(64, ge=1, le=65536, description="Rows of one optimizer step.")
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="After warm-up, until the decay tail.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up.")
    max_length: int = Field(1024, ge=8, le=1_048_576, description="Tokens of prompt and answer together.")
    seed: int = Field(17, ge=0, lt=2**31, description="Of batches, dropout and a built-in base's first weights.")
    eval_every: int = Field(200, ge=1, description="Steps between validations.")
    min_steps: int = Field(400, ge=0, description="No early stopping before this step.")
    patience: int = Field(5, ge=1, description="Validations without a better score before training ends.")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="Of training on a GPU, and of the served weights.")
    nodes: int = Field(1, ge=1, le=64, description="Machines of one training job (cluster).")
    gpus_per_node: int = Field(1, ge=0, le=16, description="0 trains on CPU.")
    max_parallel_jobs: int = Field(
        4,
        ge=1,
        le=128,
        description="Training jobs at the same time; where it is set, also training processes of a local run.",
    )
    resources: FreeForm = Field(default_factory=dict)
    queue_name: Annotated[str, StringConstraints(max_length=63)] | None = None
    pod_template: FreeForm = Field(default_factory=dict)


class Rollout(Record):
    """How traffic moves to a new revision."""

    steps: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(min_length=1, max_length=10)] = (
        10,
        50,
        100,
    )
    min_requests: int = Field(50, ge=0)
    max_step_seconds: int = Field(600, ge=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)) or self.steps[-1] != 100:
            refuse([Problem("steps", f"must rise to 100, got {list(self.steps)}")])
        return self


class Serving(Record):
    """The servers of the result."""

    replicas: int = Field(1, ge=0, le=1000, description="Servers (cluster).")
    resources: FreeForm = Field(default_factory=dict)
    rollout: Rollout = Rollout()
    pinned_revision: Annotated[str, StringConstraints(max_length=64)] | None = None
    allow_downtime: bool = Field(False, description="Without room for two revisions, stop the old one first.")
    pod_template: FreeForm = Field(default_factory=dict)


class MultiTaskModelSpec(Record):
    """N tasks that shall become one server."""

    base_model: BaseModelSource
    storage: Storage | None = Field(None, description="Required in a cluster; local runs use their work folder.")
    credentials: Annotated[tuple[Credential, ...], Field(max_length=16)] = ()
    service_account_name: Name | None = None
    image_pull_secrets: Annotated[tuple[SecretName, ...], Field(max_length=16)] = ()
    pretraining: Pretraining | None = None
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1, max_length=128)]
    filtering: Filtering = Filtering()
    stages: Stages = Stages()
    tuning: Tuning = Tuning()
    qualification: Qualification = Qualification()
    training: Training = Training()
    serving: Serving = Serving()
    suspend: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        first: dict[str, int] = {}
        for index, task in enumerate(self.tasks):
            if task.name in first:
                earlier = f"spec.tasks[{first[task.name]}]"
                yield Problem(f"tasks[{index}].name", f"{task.name!r} is the name of {earlier} already; rename one")
            first.setdefault(task.name, index)
            if self.filtering.strategy == "Manual" and task.group is None:
                yield Problem(f"tasks[{index}].group", "filtering.strategy Manual needs a group for every task")
            if task.type == "Generation":
                yield from self._room_problems(f"tasks[{index}]", task.generation or GenerationSettings())
        if self.qualification.rule == "LowerBound" and self.stages.baseline.seeds < 2:
            yield Problem(
                "qualification.rule",
                "LowerBound needs stages.baseline.seeds of 2 or more: one seed says nothing about how much the"
                " single-task score varies",
            )

    def _room_problems(self, where: str, settings: GenerationSettings) -> Iterator[Problem]:
        """One token of a prompt, the answer and its end have to fit."""
        tokens, limit = settings.max_new_tokens, self.training.max_length
        if tokens + 2 > limit:
            is_set = "max_new_tokens" in settings.model_fields_set
            yield Problem(
                f"{where}.generation.maxNewTokens",
                f"{tokens} tokens{'' if is_set else ' (the default)'} and their end leave no room for a prompt in"
                f" training.maxLength, {limit}; {'lower it' if is_set else 'set it lower'} or raise training.maxLength",
            )

    def task(self, name: str) -> TaskSpec:
        """The task called ``name``; KeyError if there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(name)


class Metadata(Record):
    """The object's name; further Kubernetes metadata is kept as it is."""

    model_config = Record.model_config | {"extra": "allow"}

    name: DnsLabel
    namespace: DnsLabel | None = None
