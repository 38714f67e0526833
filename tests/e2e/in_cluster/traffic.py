"""Requests at constant rates, from a pod of the cluster, and what became of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster import objects
from devcluster.processes import until
from e2e.in_cluster import load
from e2e.in_cluster.namespace import Namespace
from e2e.in_cluster.serving import GATEWAY, HOST, PORT
from e2e.in_cluster.steps import OPERATOR_NAMESPACE

Map = dict[str, Any]
_PROGRAM = "load"
_SECRETS = {"tls": f"{GATEWAY}-tls", "key": f"{GATEWAY}-key"}


@dataclass(frozen=True)
class Traffic:
    """A pod ``name`` of the gateway's ``image`` whose program is `load`; task → requests a second.

    ``labels``: task → the true label of all its answers, which is reported to the gateway after each.
    """

    namespace: Namespace
    image: str
    name: str = _PROGRAM
    unary: Mapping[str, float] = field(default_factory=dict)
    streams: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start it, and wait for its first answer."""
        script = Path(load.__file__).read_text("utf-8")
        configmap = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": _PROGRAM},
            "data": {"load.py": script},
        }
        self._client.kubectl("apply", "--namespace", OPERATOR_NAMESPACE, "-f", "-", stdin=[configmap, self._pod()])
        until(f"{self.name} has answers", lambda: bool(self._counts().get("answers")), 120)

    def assert_nothing_failed(self) -> str:
        """No request has failed up to now, and there are more answers than a moment ago; how many there are."""
        before = total(self._counts())
        until("the load goes on", lambda: total(self._counts()) > before, 60)
        counts = self._counts()
        assert counts["failed"] == 0, f"{counts['failed']} requests failed: " + "\n".join(counts["errors"])
        return f"{total(counts)} answers, 0 failed"

    def stop(self) -> Map:
        """End it; all its counts."""
        terminate = ("python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
        self._client.kubectl("exec", self.name, "--namespace", OPERATOR_NAMESPACE, "--", *terminate)
        ended = f"{self.name} has ended"
        until(ended, lambda: objects.get(self.namespace.rest, self._path)["status"]["phase"] == "Succeeded", 120)
        return self._counts()

    @property
    def _client(self) -> Any:
        return self.namespace.client

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{self.name}"

    def _pod(self) -> Map:
        command = ["python", "/load/load.py", f"--address={HOST}:{PORT}", "--ca=/tls/ca.crt"]
        command += ["--api-key-file=/key/api-key"]
        for option, values in (("--unary", self.unary), ("--stream", self.streams), ("--labels", self.labels)):
            command += [option, *(f"{task}={value}" for task, value in values.items())]
        mounts = [{"name": name, "mountPath": f"/{name}"} for name in (_PROGRAM, *_SECRETS)]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 90,
                "containers": [
                    {
                        "name": self.name,
                        "image": self.image,
                        "imagePullPolicy": "Never",
                        "command": command,
                        "volumeMounts": mounts,
                    }
                ],
                "volumes": [
                    {"name": _PROGRAM, "configMap": {"name": _PROGRAM}},
                    *({"name": name, "secret": {"secretName": secret}} for name, secret in _SECRETS.items()),
                ],
            },
        }

    def _counts(self) -> Map:
        """The counts that it has printed last; empty if there are none yet."""
        end = time.monotonic() + 30
        while not (answer := self.namespace.rest.get(f"{self._path}/log?tailLines=1")).is_success:
            # The container does not run yet.
            if time.monotonic() > end:
                return {}
            time.sleep(0.5)
        lines = answer.text.splitlines()
        counts: Map = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        return counts


def total(counts: Map) -> int:
    """Answers of all tasks and revisions."""
    return sum(sum(each.values()) for each in counts.get("answers", {}).values())
