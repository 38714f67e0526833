"""The Hugging Face hub: revisions become commits, splits become rows. The one module that imports its libraries."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask_trainer.data.file_names import format_of
from multitask_trainer.data.listing import missing_gguf
from multitask_trainer.data.raw_rows import RawRow, ReadProblem, UsedFields, is_used
from multitask_trainer.errors import DataError, HubUnreachable, StageError
from multitask_trainer.storage.hub_access import NOT_ANSWERED, unreachable_hub

_BATCH = 1000
_CONVERSION_ERRORS = (ValueError, ArithmeticError, LookupError, TypeError, OSError)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_DATASET = re.compile(r"^hf://(?:datasets/)?([\w.-]+/[\w.-]+?)(?:@([^/]+))?(?:/(.*))?$")


@dataclass(frozen=True)
class HubData:
    """``hf://[datasets/]ORGANISATION/NAME[@REVISION]/REST``; REST is ``[CONFIG/]SPLIT`` or a file."""

    dataset: str
    revision: str | None
    rest: str

    @classmethod
    def of(cls, uri: str) -> HubData:
        """Parse an address. Raises DataError if it names neither a split nor a file."""
        match = _DATASET.match(uri)
        if match is None or not match[3]:
            raise DataError(f"{uri}: names no split; write hf://ORGANISATION/NAME[@REVISION]/[CONFIG/]SPLIT or /FILE")
        return cls(match[1], match[2], match[3].strip("/"))

    @property
    def file_uri(self) -> str | None:
        """The fsspec address, when REST is a data file; None when it is a split."""
        if format_of(self.rest) is None:
            return None
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://datasets/{self.dataset}{revision}/{self.rest}"


def read_split(
    name: str, dataset: str, revision: str | None, rest: str, fields: UsedFields = None
) -> Iterator[RawRow | ReadProblem]:
    """The rows of one split, ``rest`` = ``[CONFIG/]SPLIT``; class labels come as their names.

    Columns that are not in ``fields`` are not decoded (None: all are). ``dataset`` may also be a local folder in the
    hub's layout.
    """
    import datasets

    config, _, split = rest.rpartition("/")
    try:
        rows = datasets.load_dataset(dataset, config or None, split=split, revision=revision)
    except (ConnectionError, TimeoutError) as error:
        raise HubUnreachable(f"{name}: {unreachable_hub(error)}") from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        yield ReadProblem(
            name, None, f"the dataset cannot be read ({_short(error)}); check its name, config and split", True
        )
        return
    columns = tuple(rows.column_names)
    used = [column for column in columns if is_used(column, fields)]
    rows = rows.select_columns(used or list(columns))  # without any column the rows could not be counted
    classes = {key: kind for key, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    for start in range(0, len(rows), _BATCH):
        for number, values in enumerate(_decoded(rows, start), start=start + 1):
            if isinstance(values, Exception):
                yield ReadProblem(name, number, f"cannot be converted ({_short(values)}); write its values as text")
                continue
            # A hidden label is -1 and an absent one None: they have no name, and are bad rows by what they are.
            known = {key: value for key in classes if (value := values[key]) is not None and value >= 0}
            named = {key: classes[key].int2str(value) for key, value in known.items()}
            yield RawRow(name, number, values | named, columns)


def _decoded(rows: Any, start: int) -> list[dict[str, Any] | Exception]:
    """A batch of rows; in the place of one that cannot be converted, why."""
    end = min(start + _BATCH, len(rows))
    try:
        batch = rows[start:end]
    except _CONVERSION_ERRORS:
        return [_decoded_row(rows, index) for index in range(start, end)]
    return [{key: values[index] for key, values in batch.items()} for index in range(end - start)]


def _decoded_row(rows: Any, index: int) -> dict[str, Any] | Exception:
    try:
        row: dict[str, Any] = rows[index]
    except _CONVERSION_ERRORS as error:
        return error
    return row


def model_parameters(repository: str, revision: str | None) -> int | None:
    """The number of weights of a model, as the hub knows it from its safetensors files; None if it does not."""
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision, expand=["safetensors"], timeout=20)
    except NOT_ANSWERED:
        return None
    return info.safetensors.total if info.safetensors else None


def download_model_file(repository: str, revision: str | None, name: str) -> Path:
    """A file of a model, in the hub's cache on this machine.

    Raises StageError if the model has no such file, HubUnreachable (retryable) if the hub does not answer.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    where = f"baseModel: hf://{repository}" + (f"@{revision}" if revision else "")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise HubUnreachable(f"{where}: {name}: {unreachable_hub(error)}") from error
    except EntryNotFoundError as error:
        names = huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
        raise StageError(f"{where}: {missing_gguf(name, names)}") from error
    except (OSError, ValueError) as error:
        raise StageError(
            f"{where}: {name} cannot be read ({_short(error)}); check its name, and for a gated model that"
            " spec.credentials names a Secret with HF_TOKEN"
        ) from error


def model_config(repository: str, revision: str | None) -> dict[str, Any]:
    """A model's ``config.json``, from the hub's cache on this machine or the hub; empty if it is in neither."""
    try:
        config = json.loads(_config_file(repository, revision).read_text("utf-8"))
    except NOT_ANSWERED:
        return {}
    return config if isinstance(config, dict) else {}


def _config_file(repository: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    get = functools.partial(huggingface_hub.hf_hub_download, repository, "config.json", revision=revision)
    try:
        return Path(get(local_files_only=True))
    except LocalEntryNotFoundError:
        # Asked once whether it is there: to download it, the hub is asked six times before it counts as unreachable.
        if not huggingface_hub.HfApi().file_exists(repository, "config.json", revision=revision):
            raise
        return Path(get())


def resolve_revision(repository: str, revision: str | None, kind: str) -> str:
    """The commit of a branch or tag of a ``model`` or ``dataset`` repository; a commit stays as it is.

    Without the hub, its cache on this machine is used. Raises DataError if the revision is in neither.
    """
    if revision and _COMMIT.match(revision):
        return revision
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"hf://{repository}" + (f"@{revision}" if revision else "")
    try:
        info: Any = huggingface_hub.HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=20)
        return str(info.sha)
    except HFValidationError as error:
        raise DataError(f"{where}: not a name that the hub can have ({_short(error)}); correct it") from error
    except GatedRepoError as error:
        raise DataError(f"{where}: access is gated; accept its terms on the hub and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise DataError(f"{where}: no such revision; check spec.baseModel.revision or the part after @") from error
    except RepositoryNotFoundError as error:
        # A few old models have a name alone, so only the hub can tell an account.
        name = "the name" if "/" in repository else f"the name, which is usually {repository}/NAME,"
        raise DataError(f"{where}: no such {kind} on the hub, or no access to it; check {name} and HF_TOKEN") from error
    except NOT_ANSWERED as error:
        cached = _cached_commit(repository, revision or "main", kind)
        if cached is None:
            raise DataError(f"{where}: {unreachable_hub(error)}") from error
        return cached


def _cached_commit(repository: str, revision: str, kind: str) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    path = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind) / "refs" / revision
    return path.read_text("utf-8").strip() if path.is_file() else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
