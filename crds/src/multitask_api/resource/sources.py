"""Where data, models and artifacts come from, and the Kubernetes objects that a spec refers to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from multitask_api.errors import Problem, raise_problems
from multitask_api.types import Record
from multitask_api.uris import (
    DATA_SCHEMES,
    STORAGE_SCHEMES,
    base_model_uri_error,
    gguf_file_error,
    is_builtin,
    uri_error,
)

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

DnsLabel = Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=63)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024)]

_MAX_STEPS = 1_000_000
"""Optimizer steps of months of training: more is a slip."""
Steps = Annotated[int, Field(ge=1, le=_MAX_STEPS)]
StepsOrZero = Annotated[int, Field(ge=0, le=_MAX_STEPS)]
Rate = Annotated[float, Field(gt=0, lt=1)]


def _check_data_uri(uri: str) -> str:
    return _checked(uri, uri_error(uri, DATA_SCHEMES))


def _check_base_model_uri(uri: str) -> str:
    return _checked(uri, base_model_uri_error(uri))


def _check_storage_uri(uri: str) -> str:
    return _checked(uri, uri_error(uri, STORAGE_SCHEMES))


def _check_gguf_file(name: str) -> str:
    return _checked(name, gguf_file_error(name))


def _checked(uri: str, error: str | None) -> str:
    if error is not None:
        raise ValueError(error)
    return uri


DataUri = Annotated[Uri, AfterValidator(_check_data_uri)]
BaseModelUri = Annotated[Uri, AfterValidator(_check_base_model_uri)]
GgufFile = Annotated[str, StringConstraints(min_length=1, max_length=253), AfterValidator(_check_gguf_file)]
StorageUri = Annotated[Uri, AfterValidator(_check_storage_uri)]


class DataSource(Record):
    """Rows of text: one file, or a folder of files, in jsonl, json, csv, tsv, parquet or arrow; gz, bz2, xz or zst."""

    uri: DataUri = Field(
        description="URI of a file or folder: pvc://CLAIM/PATH, s3://, gs://, hf:// or file://. On one machine also a "
        "path, relative to the resource file. All files of a folder are read, in all folders below it; one that cannot "
        "be read is an error, unless its name begins with a dot or it is a marker such as _SUCCESS."
    )


class Pretraining(Record):
    """Continued pretraining of the base model on text of the domain, before any task is trained."""

    tasks_text: bool = Field(
        True,
        description="Train on the inputs and answers of the tasks' training rows. Validation and test rows are never "
        "used.",
    )
    corpus: Annotated[tuple[DataSource, ...], Field(max_length=64)] = Field(
        (), description="More text to train on. Default: none; required if tasksText is false."
    )
    max_steps: Steps = Field(description="Number of optimizer steps, each of training.batchRows rows.")
    learning_rate: Rate | None = Field(
        None,
        description="Learning rate of pretraining, which trains all weights; for a base that knows language 1e-5 to "
        "5e-5. Default: training.learningRate.",
    )
    refresh: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        None,
        description="Any text; a change trains the base model again. Without a change it stays as it is, also when "
        "tasks are added.",
    )

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.tasks_text and not self.corpus:
            raise_problems([Problem("corpus", "there is no text to train on; name a corpus or set tasksText: true")])
        return self


class BaseModelSource(Record):
    """The pretrained language model that all training starts from."""

    uri: BaseModelUri = Field(
        description="URI of the model: hf://ORGANISATION/NAME for the Hugging Face Hub; s3://, gs://, "
        "pvc://CLAIM/PATH or file:// for a folder in the transformers format; builtin://SIZE for a small randomly "
        "initialised model (micro, tiny, small, 50m, 500m)."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None,
        description="Branch, tag or commit on the Hub; each run resolves it to a commit. Default: the main branch. "
        "For a builtin:// model any text; another text creates the model again. Not used for folders.",
    )
    chat_template: bool = Field(
        False,
        description="Wrap every prompt in the chat template of the tokenizer, as instruction-tuned models expect.",
    )
    gguf_file: GgufFile | None = Field(
        None,
        description="Name of a GGUF file in the folder or Hub repository, for example model-Q8_0.gguf. Weights, "
        "configuration and tokenizer are read from it alone, and its weights are dequantised. Default: the folder is "
        "in the transformers format.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        if self.gguf_file is not None and is_builtin(self.uri):
            yield Problem("ggufFile", f"{self.uri} is created and not read from a file; remove it")


class Storage(Record):
    """Where results and checkpoints are kept."""

    uri: StorageUri = Field(
        description="URI of a folder: pvc://CLAIM/PATH, s3://, gs:// or file://. It cannot be changed afterwards."
    )
    retain: bool = Field(
        True,
        description="Keep the stored files when this resource is deleted. If false, the files that its runs wrote are "
        "deleted first, unless another MultiTaskModel of the namespace uses this folder, or one above or below it.",
    )
    keep_revisions: int = Field(
        3,
        ge=1,
        le=100,
        description="Number of revisions without traffic that are kept, without servers, so that they can be served "
        "again. What is stored of them stays.",
    )


class SecretName(Record):
    """A reference to a Secret in the namespace of the resource."""

    name: Name = Field(description="Name of the Secret.")


class Credential(Record):
    """A Secret whose keys become environment variables of the stage pods, for example HF_TOKEN."""

    secret_ref: SecretName = Field(description="The Secret. Pods cannot start until it exists.")


class ConfigMapKey(Record):
    """A reference to one key of a ConfigMap in the namespace of the resource."""

    name: str = Field(max_length=253, description="Name of the ConfigMap.")
    key: str = Field(max_length=253, description="Key in its data.")
