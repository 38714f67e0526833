"""Files at any fsspec address, and errors of a store in words that tell the user what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from multitask_api.errors import MultitaskError
from multitask_trainer.errors import ArtifactError, HubUnreachable, StageError
from multitask_trainer.storage.files import temporary_sibling
from multitask_trainer.storage.hub_access import is_outage, unreachable_hub

NO_CREDENTIALS = "no credentials for this store"
"""Begins what is said where none are found. It may be a passing failure: a pod asks a server for them."""
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}  # botocore
    | {"DefaultCredentialsError", "RefreshError"}  # google.auth
)
"""Errors by name: their packages are imported only where such a store is used."""


def local_path(uri: str) -> Path | None:
    """The path of a local address; None for a remote one."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri)


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn the errors of a store into the trainer's own, with what to do about them.

    `StageError` where access is denied, `ArtifactError` where a remote store does not answer, `HubUnreachable` where
    the hub does not. `FileNotFoundError` and what goes wrong on a local disk pass through.
    """
    try:
        yield
    except (FileNotFoundError, MultitaskError):
        raise
    except PermissionError as error:
        raise StageError(
            f"{uri}: access denied ({error}); check the Secrets of spec.credentials or the rights of the service "
            "account, and for a claim that its files belong to the pod's group (fsGroup)"
        ) from error
    except Exception as error:
        if local_path(uri) is not None:
            raise
        if uri.startswith("hf://") and is_outage(error):
            raise HubUnreachable(f"{uri}: {unreachable_hub(error)}") from error
        if type(error).__name__ in _NO_CREDENTIALS:
            raise ArtifactError(f"{uri}: {_without_credentials(uri, error)}") from error
        raise ArtifactError(f"{uri}: cannot be reached ({type(error).__name__}: {error}); is the store up?") from error


def _without_credentials(uri: str, error: Exception) -> str:
    variables = (
        "GOOGLE_APPLICATION_CREDENTIALS" if uri.startswith("gs://") else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    return (
        f"{NO_CREDENTIALS} ({error}); set {variables} in the environment of the command, in a cluster in a Secret of"
        " spec.credentials"
    )


def file_sizes(uri: str) -> dict[str, int]:
    """Relative name → bytes of every file below an address."""
    fs, path = fsspec.url_to_fs(uri)
    fs.invalidate_cache()  # fsspec caches listings, and other pods write
    with storage_errors(uri):
        entries = fs.find(path, detail=True)
    return {name.removeprefix(path).lstrip("/"): entry["size"] for name, entry in entries.items()}


def upload_file(file: Path, uri: str) -> None:
    """Copy a file to a remote address. Raises `StageError` if the bucket does not exist."""
    fs, path = fsspec.url_to_fs(uri)
    with storage_errors(uri):
        try:
            fs.put_file(str(file), path)
        except FileNotFoundError as error:  # the bucket: an object store needs no folders
            raise StageError(f"{uri}: {error}; make the bucket, or name another in spec.storage.uri") from error


def download_file(uri: str, path: Path) -> bool:
    """Copy the file at an address to ``path``, which readers see once it is whole; False if there is none."""
    fs, source = fsspec.url_to_fs(uri)
    temporary = temporary_sibling(path)
    try:
        with storage_errors(uri):
            fs.get_file(source, str(temporary))
        temporary.replace(path)
    except FileNotFoundError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def remove_tree(uri: str) -> None:
    """Delete everything at an address, as far as possible: what cannot be deleted only takes room."""
    fs, path = fsspec.url_to_fs(uri)
    with suppress(FileNotFoundError, MultitaskError), storage_errors(uri):
        fs.rm(path, recursive=True)
