"""Keys and certificates of a cluster for tests, made by ``openssl``: they name users to the API server."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_DAYS = "365"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority whose files, and those of what it signs, lie in ``folder``."""

    folder: Path

    @property
    def own(self) -> Pair:
        """The authority's own certificate and key."""
        return self.pair("ca")

    def create(self) -> None:
        """Make its key and certificate."""
        self.folder.mkdir(parents=True, mode=0o700)
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")
        self._request(self.own, "/CN=test cluster", extensions)

    def sign(self, name: str, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Pair:
        """A new certificate for a user of these groups; with ``hosts`` (as in ``IP:127.0.0.1``) for a server."""
        pair = self.pair(name)
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        uses = "serverAuth,clientAuth" if hosts else "clientAuth"
        extensions = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={uses}",
        ]
        if hosts:
            extensions.append(f"subjectAltName={','.join(hosts)}")
        self._request(pair, subject, extensions, "-CA", str(self.own.certificate), "-CAkey", str(self.own.key))
        return pair

    def pair(self, name: str) -> Pair:
        """The files of what was signed under ``name``."""
        return Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _request(self, pair: Pair, subject: str, extensions: Sequence[str], *issuer: str) -> None:
        files = ("-keyout", str(pair.key), "-out", str(pair.certificate))
        # An empty configuration: the machine's own adds extensions.
        options = ("-config", "/dev/null", "-days", _DAYS, "-subj", subject)
        added = (part for extension in extensions for part in ("-addext", extension))
        _openssl("req", "-x509", *_NEW_KEY, *files, *options, *issuer, *added)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
