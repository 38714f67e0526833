"""From the credentials of a call to its caller."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from multitask_serving.gateway.access.callers import CallersFile
from multitask_serving.gateway.access.grants import Caller
from multitask_serving.gateway.access.reviews import TokenReviews
from multitask_serving.gateway.errors import CallerUnknown, NoBackend, Unauthenticated

log = logging.getLogger(__name__)

AUTHORIZATION = "authorization"
_CERTIFICATE_NAMES = ("x509_common_name", "x509_subject_alternative_name")

current_caller: ContextVar[Caller] = ContextVar("current_caller")
"""The caller of the call that runs; the interceptor sets it."""


@dataclass(frozen=True)
class Credentials:
    """What a call shows: a ``token`` (an API key or a ServiceAccount's), and the names in its verified certificate."""

    token: str | None = None
    certificate_names: tuple[str, ...] = ()


def credentials_of(
    metadata: Iterable[tuple[str, str | bytes]], auth_context: Mapping[str, Iterable[bytes]]
) -> Credentials:
    """The credentials in a call's metadata and connection. Raises `Unauthenticated` for metadata in another form."""
    headers = [value for key, value in metadata if key == AUTHORIZATION]
    token = None
    if headers:
        scheme, _, token = str(headers[0]).partition(" ")
        if len(headers) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated(f"the metadata '{AUTHORIZATION}' must be once 'Bearer ' and the API key")
    names = [name.decode(errors="replace") for key in _CERTIFICATE_NAMES for name in auth_context.get(key, ())]
    return Credentials(token and token.strip(), tuple(names))


class Access:
    """Finds the caller by the file of callers and, with ``reviews``, by ServiceAccount tokens."""

    def __init__(self, file: CallersFile, reviews: TokenReviews | None = None) -> None:
        self._file = file
        self._reviews = reviews

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        self._file.refresh()

    async def caller(self, credentials: Credentials) -> Caller:
        """Who calls. A token counts before a certificate. Raises `Unauthenticated`, `CallerUnknown` or `NoBackend`."""
        callers = self._file.callers
        if credentials.token is not None:
            found = callers.with_key(credentials.token) or await self._service_account(credentials.token)
            if found is None:
                raise Unauthenticated("the API key is not known here; it may have been replaced. Ask for a new one")
            return found
        if credentials.certificate_names:
            found = callers.with_certificate(credentials.certificate_names)
            if found is None:
                raise CallerUnknown(f"no caller has a certificate for {', '.join(credentials.certificate_names)}")
            return found
        raise Unauthenticated("who calls is not said; send the metadata 'authorization: Bearer KEY' with an API key")

    async def _service_account(self, token: str) -> Caller | None:
        if self._reviews is None:
            return None
        try:
            account = await self._reviews.service_account(token)
        except Exception as error:
            log.warning("a ServiceAccount token could not be checked: %s", type(error).__name__)
            raise NoBackend("the ServiceAccount token cannot be checked now; try again in a moment") from error
        if account is None:
            return None
        namespace = account.partition("/")[0]
        # Who runs pods in a namespace can create models there, and so call them: its accounts need no entry for that.
        return self._file.callers.with_service_account(account) or Caller(f"serviceaccount {account}", (namespace,))
