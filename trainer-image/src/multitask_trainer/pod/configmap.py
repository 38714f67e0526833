"""A client of the one ConfigMap that a stage pod may write: merge patches over the API server's REST interface."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from multitask_trainer.errors import Unreported

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PATCH_TIMEOUT = 300.0
"""Seconds for which a patch is tried again while the API server does not take it."""
AUTHORIZATION_TIMEOUT = 60.0
"""Seconds that a new Role or token may take to be known to every API server."""
_MAX_WAIT = 10.0
"""Seconds between two tries."""


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

    def patch(self, change: Mapping[str, object], timeout: float = PATCH_TIMEOUT) -> None:
        """Merge-patch; tries again for ``timeout`` seconds where that can help. Raises `Unreported`."""
        begun, wait = self._clock(), 0.5
        while True:
            error = self._try(change)
            if error is None:
                return
            pause = max(wait, min(error.retry_after, _MAX_WAIT))
            if self._clock() - begun + pause > min(timeout, error.timeout):
                raise Unreported(f"ConfigMap {self.name} was not written: {error.message}")
            self._sleep(pause)
            wait = min(2 * wait, _MAX_WAIT)

    def _try(self, change: Mapping[str, object]) -> _PatchError | None:
        try:
            headers = {"Content-Type": "application/merge-patch+json"}
            response = self._client.patch(self._path, json=change, headers=headers)
        except (httpx.TransportError, OSError) as error:
            return _PatchError(f"{type(error).__name__}: {error}", PATCH_TIMEOUT)
        return None if response.is_success else _patch_error(response)


@dataclass(frozen=True)
class _PatchError:
    message: str
    timeout: float
    """Seconds after which trying again does not help any more."""
    retry_after: float = 0.0


def _patch_error(response: httpx.Response) -> _PatchError:
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = response.reason_phrase
    message = f"{response.status_code} {message}"
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return _PatchError(f"{message}; may this pod's service account patch it?", AUTHORIZATION_TIMEOUT)
    if response.status_code == httpx.codes.NOT_FOUND:
        return _PatchError(f"{message}; nobody waits for this result any more", 0.0)
    if response.status_code in (httpx.codes.CONFLICT, httpx.codes.TOO_MANY_REQUESTS) or response.is_server_error:
        after = response.headers.get("Retry-After", "")
        return _PatchError(message, PATCH_TIMEOUT, float(after) if after.isdigit() else 0.0)
    return _PatchError(message, 0.0)


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


class _TokenFile(httpx.Auth):
    """Reads the service account's token for every request: the kubelet replaces it while the pod runs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._path.read_text('ascii').strip()}"
        yield request
