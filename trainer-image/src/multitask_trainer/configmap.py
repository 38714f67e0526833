"""A stage pod's own ConfigMap: progress, results and failures, merge-patched over the API server's REST interface."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import httpx

from multitask_api.cluster import FAILURE_KEY, PROGRESS_KEY
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageProgress
from multitask_api.stage_io.packing import manifest_key, pack_manifest
from multitask_trainer.errors import Unreported
from multitask_trainer.reporter import Pace, Position

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PATIENCE = 300.0
"""Seconds for which a result is offered to an API server that does not take it."""
UNTIL_ALLOWED = 60.0
"""Seconds for which a Role or a token may take to be known everywhere."""
FAILURE_PATIENCE = 60.0
_LONGEST_WAIT = 10.0
_LONGEST_MESSAGE = 16_000
_SILENCE = 60.0
"""Seconds without another try after progress could not be reported: it must not hold training up."""


class ConfigMap:
    """One ConfigMap, by name; ``clock`` and ``sleep`` measure and pass the time between tries."""

    def __init__(
        self,
        name: str,
        client: httpx.Client,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        namespace, _, own = name.partition("/")
        self._path = f"/api/v1/namespaces/{namespace}/configmaps/{own}"
        self._client = client
        self._clock = clock
        self._sleep = sleep

    def patch(self, change: Mapping[str, object], patience: float = PATIENCE) -> None:
        """Merge-patch; tries again for ``patience`` seconds where that can help. Raises `Unreported`."""
        begun, wait = self._clock(), 0.5
        while True:
            refusal = self._try(change)
            if refusal is None:
                return
            limit = min(patience, refusal.patience)
            pause = max(wait, min(refusal.wait, _LONGEST_WAIT))
            if self._clock() - begun + pause > limit:
                raise Unreported(f"ConfigMap {self.name} was not written: {refusal.why}")
            self._sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _try(self, change: Mapping[str, object]) -> _Refusal | None:
        try:
            headers = {"Content-Type": "application/merge-patch+json"}
            answer = self._client.patch(self._path, json=change, headers=headers)
        except (httpx.TransportError, OSError) as error:
            return _Refusal(f"{type(error).__name__}: {error}", PATIENCE)
        return None if answer.is_success else _refusal(answer)


@dataclass(frozen=True)
class _Refusal:
    why: str
    patience: float
    """Seconds after which trying again does not help any more."""
    wait: float = 0.0


def _refusal(answer: httpx.Response) -> _Refusal:
    try:
        said = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        said = answer.reason_phrase
    why = f"{answer.status_code} {said}"
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return _Refusal(f"{why}; may this pod's service account patch it?", UNTIL_ALLOWED)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return _Refusal(f"{why}; nobody waits for this result any more", 0.0)
    if answer.status_code in (httpx.codes.CONFLICT, httpx.codes.TOO_MANY_REQUESTS) or answer.is_server_error:
        after = answer.headers.get("Retry-After", "")
        return _Refusal(why, PATIENCE, float(after) if after.isdigit() else 0.0)
    return _Refusal(why, 0.0)


class ConfigMapReporter:
    """Progress, at most every 15 seconds, and every 2 when the phase changes; what cannot be reported is not."""

    def __init__(self, stage: str, configmap: ConfigMap, clock: Callable[[], float] = time.time) -> None:
        self._stage = stage
        self._configmap = configmap
        self._clock = clock
        self._pace = Pace(15.0, at_change=2.0)

    def report(self, phase: str, **position: Unpack[Position]) -> None:
        """See Reporter.report."""
        now = self._clock()
        if not self._pace.is_due(phase, now):
            return
        progress = StageProgress(stage=self._stage, phase=phase, updated=now, **position)
        text = progress.model_dump_json(by_alias=True, exclude_none=True)
        try:
            self._configmap.patch({"data": {PROGRESS_KEY: text}}, patience=0.0)
        except Unreported as error:
            sys.stderr.write(f"{self._stage}: progress was not reported: {error}\n")
            self._pace.pause(_SILENCE)


@dataclass
class ConfigMapResults:
    """How the orders of a unit end. There is room for one failure: the first one, with the others in its message."""

    configmap: ConfigMap
    _failures: list[str] = field(default_factory=list)
    _first: tuple[StageFailure, str] | None = None

    def begin(self) -> None:
        """A new attempt: what the last one said of its failure is over. Raises `Unreported`."""
        self.configmap.patch({"data": {FAILURE_KEY: None, PROGRESS_KEY: None}})

    def done(self, manifest: Manifest) -> None:
        """See stage.Results.done."""
        try:
            packed = pack_manifest(manifest)
        except ValueError as error:
            raise Unreported(str(error)) from error
        self.configmap.patch({"binaryData": {manifest_key(manifest.digest): packed}})

    def failed(self, failure: StageFailure, digest: str) -> None:
        """See stage.Results.failed."""
        self._first = self._first or (failure, digest)
        self._failures.append(failure.message if not self._failures else f"{failure.stage}: {failure.message}")
        message = "\n".join(self._failures)
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]} … (the rest is in the pod's log)"
        first, own = self._first
        said = json.dumps(first.model_copy(update={"message": message}).to_json() | {"digest": own}, ensure_ascii=False)
        try:
            self.configmap.patch({"data": {FAILURE_KEY: said}}, FAILURE_PATIENCE)
        except Unreported as error:
            sys.stderr.write(f"{failure.stage}: the failure was not reported: {error}\n")


class _TokenFile(httpx.Auth):
    """A service account's token is replaced while the pod runs: it is read for every request."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._path.read_text('ascii').strip()}"
        yield request


def connect(environment: Mapping[str, str], server: str | None = None, account: Path = SERVICE_ACCOUNT) -> httpx.Client:
    """A client of the API server of this pod's cluster, or of ``server``, with the service account in ``account``."""
    if server is None:
        host = environment["KUBERNETES_SERVICE_HOST"]
        server = f"https://{f'[{host}]' if ':' in host else host}:{environment['KUBERNETES_SERVICE_PORT']}"
    certificate = account / "ca.crt"
    verify = ssl.create_default_context(cafile=str(certificate)) if certificate.exists() else True
    token = account / "token"
    return httpx.Client(
        base_url=server,
        verify=verify,
        auth=_TokenFile(token) if token.exists() else None,
        timeout=httpx.Timeout(5.0, connect=2.0),
        trust_env=False,  # a proxy for the data is none for the API server
    )
