"""The gateway's certificate, from a folder with ``tls.crt``, ``tls.key`` and ``ca.crt``, as cert-manager makes it."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from multitask_api.errors import UserError
from multitask_serving.gateway.files.watched_file import file_version

log = logging.getLogger(__name__)

CERTIFICATE, KEY, CLIENT_CA = "tls.crt", "tls.key", "ca.crt"


class InvalidCertificate(UserError):
    """The certificate cannot be read, or does not belong to the key."""


class CertificateFolder:
    """A folder with a certificate. A replaced certificate counts from the next connection on."""

    def __init__(self, folder: Path) -> None:
        """Read it for the first time. Raises `InvalidCertificate`."""
        self._folder = folder
        self._read_version = self._version()
        self._configuration = self._read()

    def credentials(self, *, require_client_certificate: bool = False) -> grpc.ServerCredentials:
        """Credentials for a port. Client certificates are verified against ``ca.crt``. Raises `InvalidCertificate`.

        gRPC either requires a client certificate or does not ask for one: callers with certificates get a port of
        their own.
        """
        if require_client_certificate and not (self._folder / CLIENT_CA).is_file():
            raise InvalidCertificate(
                f"{self._folder / CLIENT_CA} is missing; callers' certificates are verified against it"
            )
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, self._changed_configuration, require_client_certificate
        )

    def _changed_configuration(self) -> grpc.ServerCertificateConfiguration:
        """What gRPC asks before each handshake, on its own thread: the certificate of now. The last good one stays."""
        version = self._version()
        if version == self._read_version:
            return self._configuration
        try:
            configuration = self._read()
        except InvalidCertificate as error:
            log.error("the certificate is not changed: %s", error)
        else:
            if self._version() != version:  # it changes right now: certificate and key may be of two versions
                return self._configuration
            self._configuration = configuration
            log.info("certificate read from %s", self._folder)
        self._read_version = version
        return self._configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, client_ca = self._folder / CERTIFICATE, self._folder / KEY, self._folder / CLIENT_CA
        try:
            pair = (key.read_bytes(), certificate.read_bytes())
            roots = client_ca.read_bytes() if client_ca.exists() else None
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            reason = error.reason or "not PEM"
            raise InvalidCertificate(f"{certificate} and {key.name} are no certificate and its key: {reason}") from None
        except OSError as error:
            raise InvalidCertificate(f"{error.filename or self._folder} cannot be read: {error.strerror}") from error
        return grpc.ssl_server_certificate_configuration([pair], roots)

    def _version(self) -> tuple[tuple[int, ...], ...]:
        return tuple(file_version(self._folder / name) for name in (CERTIFICATE, KEY, CLIENT_CA))
