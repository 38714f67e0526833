"""Access to a running test cluster: kubeconfig files, REST, ``kubectl``, and its audit log."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from devcluster import binaries
from devcluster.certificates import Authority

Object = dict[str, Any]


@dataclass(frozen=True)
class CommandResult:
    """A command that has ended."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class ClusterClient:
    """The cluster at ``url``; ``folder`` has its certificate authority, kubeconfig files and audit log."""

    folder: Path
    url: str  # https://HOST:PORT

    @property
    def authority(self) -> Authority:
        """The certificate authority of this cluster."""
        return Authority(self.folder / "pki")

    @property
    def ca_file(self) -> Path:
        """The CA certificate that clients verify the API server with."""
        return self.authority.ca.certificate

    @property
    def admin(self) -> Path:
        """The kubeconfig of a user in system:masters."""
        return self.user("admin", groups=("system:masters",))

    def user(self, name: str, groups: Sequence[str] = ()) -> Path:
        """The kubeconfig of a user with a client certificate; created on first use."""
        path = self.folder / f"{name.replace(':', '_')}.conf"
        if not path.exists():
            key_pair = self.authority.sign(path.stem, name, groups)
            user = {"client-certificate": str(key_pair.certificate), "client-key": str(key_pair.key)}
            self._write_config(path, user)
        return path

    def service_account(self, namespace: str, name: str) -> Path:
        """The kubeconfig of a service account, with a token for one hour."""
        path = self.folder / f"{namespace}.{name}.conf"
        self._write_config(path, {"token": self.token(namespace, name)})
        return path

    def token(self, namespace: str, name: str) -> str:
        """A new token of a service account."""
        return self.kubectl("create", "token", name, "--namespace", namespace, "--duration", "1h").stdout.strip()

    def rest(self, config: Path | None = None) -> httpx.Client:
        """A client of the REST API, for a kubeconfig of this cluster; the admin's by default."""
        document = yaml.safe_load((config or self.admin).read_text("utf-8"))
        user: Mapping[str, str] = document["users"][0]["user"]
        context = ssl.create_default_context(cafile=str(self.ca_file))
        headers = {}
        if "token" in user:
            headers["Authorization"] = f"Bearer {user['token']}"
        else:
            context.load_cert_chain(user["client-certificate"], user["client-key"])
        # Ignore proxy variables: the server is on this machine.
        return httpx.Client(base_url=self.url, verify=context, headers=headers, timeout=60, trust_env=False)

    def kubectl(
        self,
        *arguments: str,
        stdin: Object | Sequence[Object] | str | None = None,
        config: Path | None = None,
        check: bool = True,
    ) -> CommandResult:
        """``kubectl ARGUMENTS``; objects for ``-f -`` in ``stdin``. AssertionError if it fails and ``check`` is on."""
        done = subprocess.run(
            [str(binaries.path("kubectl")), "--kubeconfig", str(config or self.admin), *arguments],
            input=stdin if stdin is None or isinstance(stdin, str) else _as_text(stdin),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KUBECACHEDIR": str(self.folder / "kubectl-cache"), "NO_PROXY": "*"},
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def get(self, *arguments: str) -> Object:
        """``kubectl get ARGUMENTS`` as data."""
        result: Object = json.loads(self.kubectl("get", *arguments, "--output", "json").stdout)
        return result

    def audit_mark(self) -> int:
        """The current end of the audit log, for ``audited``."""
        log = self.folder / "audit.log"
        return log.stat().st_size if log.exists() else 0

    def audited(self, mark: int = 0, user: str | None = None) -> list[Object]:
        """The audit events (audit.k8s.io Event) since ``mark``, of one user or of all."""
        with (self.folder / "audit.log").open("rb") as log:
            log.seek(mark)
            events = [json.loads(line) for line in log if line.endswith(b"\n")]
        return [event for event in events if user is None or event["user"]["username"] == user]

    def writes(self, mark: int = 0, user: str | None = None) -> list[str]:
        """``VERB RESOURCE NAMESPACE/NAME`` of every write request since ``mark``."""
        events = self.audited(mark, user)
        return [_line(event) for event in events if event["verb"] not in ("get", "list", "watch")]

    def _write_config(self, path: Path, user: Mapping[str, str]) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": path.stem, "user": dict(user)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": path.stem}}],
            "current-context": "test",
        }
        new = path.with_suffix(f".{os.getpid()}.new")
        new.touch(mode=0o600)
        new.write_text(yaml.safe_dump(document), "utf-8")
        new.replace(path)


def _as_text(objects: Object | Sequence[Object]) -> str:
    items = [objects] if isinstance(objects, dict) else list(objects)
    return json.dumps(items[0] if len(items) == 1 else {"apiVersion": "v1", "kind": "List", "items": items})


def _line(event: Object) -> str:
    target = event.get("objectRef", {})
    resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
    return f"{event['verb']} {resource} {target.get('namespace', '')}/{target.get('name', '')}"
