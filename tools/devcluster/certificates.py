"""Keys and client certificates for a test cluster, made with ``openssl``."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_DAYS = "365"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


@dataclass(frozen=True)
class KeyPair:
    """The PEM files of a certificate and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority; ``folder`` has its files and those of the certificates that it signs."""

    folder: Path

    @property
    def ca(self) -> KeyPair:
        """Certificate and key of the authority itself."""
        return self.key_pair("ca")

    def create(self) -> None:
        """Generate its key and certificate."""
        self.folder.mkdir(parents=True, mode=0o700)
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")
        self._request(self.ca, "/CN=test cluster", extensions)

    def sign(self, name: str, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> KeyPair:
        """Sign a client certificate for ``user`` in ``groups``; with ``hosts`` (``IP:127.0.0.1``) also a server's."""
        key_pair = self.key_pair(name)
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        uses = "serverAuth,clientAuth" if hosts else "clientAuth"
        extensions = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={uses}",
        ]
        if hosts:
            extensions.append(f"subjectAltName={','.join(hosts)}")
        self._request(key_pair, subject, extensions, "-CA", str(self.ca.certificate), "-CAkey", str(self.ca.key))
        return key_pair

    def key_pair(self, name: str) -> KeyPair:
        """The files of the certificate that was signed as ``name``."""
        return KeyPair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _request(self, key_pair: KeyPair, subject: str, extensions: Sequence[str], *issuer: str) -> None:
        files = ("-keyout", str(key_pair.key), "-out", str(key_pair.certificate))
        # Without the machine's configuration, which adds extensions.
        options = ("-config", "/dev/null", "-days", _DAYS, "-subj", subject)
        flags = (part for extension in extensions for part in ("-addext", extension))
        _openssl("req", "-x509", *_NEW_KEY, *files, *options, *issuer, *flags)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
