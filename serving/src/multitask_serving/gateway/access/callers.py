"""The file of callers: the hashes of their API keys, their certificates and ServiceAccounts, and their grants::

    callers:
      - name: shop                            # for logs and errors
        keys: ["sha256:9f86d081884c7d659a2f…"]   # of keys with at least 32 characters; two during a rotation
        allow: [team-a/support-desk]          # see `grants`
      - name: batch
        certificates: ["spiffe://cluster.local/ns/team-b/sa/batch"]   # the subject's CN, or a SAN; * as in grants
        serviceAccounts: [team-b/batch]
        allow: [team-b, team-a/*/urgency]

A key is random and long, so that one round of SHA-256 protects it: nobody can try all keys of 32 random characters.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from multitask_api.errors import UserError
from multitask_api.resource.parsing import PydanticError, unknown_field
from multitask_api.types import Record
from multitask_serving.gateway.access.grants import Caller, grant_error, matches
from multitask_serving.gateway.files.watched_file import WatchedFile

log = logging.getLogger(__name__)

MIN_KEY_LENGTH = 32
_PREFIX = "sha256:"


class InvalidCallers(UserError):
    """The file of callers cannot be read, or is not valid."""


def hash_key(key: str) -> str:
    """How an API key stands in the file."""
    return _PREFIX + hashlib.sha256(key.encode()).hexdigest()


def _grant(pattern: str) -> str:
    if problem := grant_error(pattern):
        raise ValueError(problem)
    return pattern


class CallerEntry(Record):
    """One caller: how it is recognised, and what it may call."""

    name: str = Field(min_length=1, max_length=63)
    keys: tuple[Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")], ...] = ()
    certificates: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    service_accounts: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+/[a-z0-9.-]+$")], ...] = ()
    allow: tuple[Annotated[str, AfterValidator(_grant)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _recognisable(self) -> CallerEntry:
        if not (self.keys or self.certificates or self.service_accounts):
            raise ValueError(f"caller {self.name!r} has none of keys, certificates and serviceAccounts")
        return self

    @property
    def caller(self) -> Caller:
        """The caller without its credentials."""
        return Caller(self.name, self.allow)


class Callers(Record):
    """All callers. Where several match, the first of the file counts."""

    callers: tuple[CallerEntry, ...]

    @model_validator(mode="after")
    def _distinct(self) -> Callers:
        names = [entry.name for entry in self.callers]
        keys = [key for entry in self.callers for key in entry.keys]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"caller {twice[0]!r} is there twice; list all its keys in one entry")
        if len(keys) > len(set(keys)):
            raise ValueError("two callers have the same key; give each its own")
        return self

    def with_key(self, key: str) -> Caller | None:
        """The caller with this API key. The time that it takes does not depend on how much of a hash agrees."""
        if len(key) < MIN_KEY_LENGTH:  # whatever the file says: a short key can be guessed from its hash
            return None
        hashed = hash_key(key)
        found = None
        for entry in self.callers:
            for own in entry.keys:
                if hmac.compare_digest(hashed, own):
                    found = entry.caller
        return found

    def with_certificate(self, names: Sequence[str]) -> Caller | None:
        """The caller with a certificate that has one of these names: a common name, or an alternative name."""
        for entry in self.callers:
            if any(matches(own, name) for own in entry.certificates for name in names):
                return entry.caller
        return None

    def with_service_account(self, account: str) -> Caller | None:
        """The caller with the ServiceAccount ``NAMESPACE/NAME``."""
        for entry in self.callers:
            if account in entry.service_accounts:
                return entry.caller
        return None


def parse_callers(text: str, source: str) -> Callers:
    """The callers in ``text``; ``source`` names its origin in errors. Raises `InvalidCallers`.

    Errors do not repeat values of the file: a key that was put there unhashed must not get into a log.
    """
    try:
        return Callers.model_validate(yaml.safe_load(text), by_name=False)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InvalidCallers(f"{source}:{line} is not YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise InvalidCallers(f"{source} is not YAML") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the file'}: {_without_value(each)}"
            for each in error.errors(include_input=False)
        )
        raise InvalidCallers(f"{source} is not a file of callers: {problems}") from None


def _without_value(error: PydanticError) -> str:
    if error["type"] == "string_pattern_mismatch":
        return "has the wrong form; a key is sha256: and 64 hexadecimal digits, a ServiceAccount NAMESPACE/NAME"
    if error["type"] == "extra_forbidden":
        return unknown_field(error["loc"], Callers)
    return str(error["msg"])


class CallersFile:
    """A file of callers. ``callers`` are the last valid ones read from it."""

    def __init__(self, path: Path) -> None:
        """Read the file for the first time. Raises `InvalidCallers`."""
        self._path = path
        self._file = WatchedFile(path, self._read, InvalidCallers, "who may call is")

    @property
    def callers(self) -> Callers:
        """The last valid ones."""
        return self._file.content

    def refresh(self) -> bool:
        """Read the file again if it has changed. Returns whether the callers were replaced; logs an invalid file."""
        if not self._file.refresh():
            return False
        log.info("callers read from %s: %s", self._path, ", ".join(entry.name for entry in self.callers.callers))
        return True

    def _read(self) -> Callers:
        try:
            return parse_callers(self._path.read_text(encoding="utf-8"), str(self._path))
        except OSError as error:
            raise InvalidCallers(f"{self._path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidCallers(f"{self._path} is not UTF-8") from error
