"""A server that answers merge-patches of one ConfigMap as the Kubernetes API server does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/api/v1/namespaces/team/configmaps/unit"
NAME = "team/unit"


@dataclass
class ApiServer:
    """One ConfigMap; ``refusals`` are (status, headers) given out before anything is done, in order."""

    configmap: dict[str, Any] = field(default_factory=lambda: {"data": {}, "binaryData": {}})
    refusals: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    patches: list[Any] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    url: str = ""

    @property
    def data(self) -> dict[str, str]:
        return self.configmap["data"]

    @property
    def binary(self) -> dict[str, str]:
        return self.configmap["binaryData"]

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str], Any]:
        self.tokens.append(headers.get("Authorization"))
        if self.refusals:
            status, extra = self.refusals.pop(0)
            return status, extra, {"kind": "Status", "message": f"no, {status}"}
        if path != PATH:
            return 404, {}, {"kind": "Status", "message": f"{path.rsplit('/', 1)[-1]} not found"}
        if headers.get("Content-Type") != "application/merge-patch+json":
            return 415, {}, {"kind": "Status", "message": "unsupported media type"}
        change = json.loads(body)
        self.patches.append(change)
        self.configmap = merged(self.configmap, change)
        return 200, {}, self.configmap


def merged(value: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    kept = dict(value) if isinstance(value, dict) else {}
    for name, item in change.items():
        if item is None:
            kept.pop(name, None)
        else:
            kept[name] = merged(kept.get(name), item)
    return kept


@contextmanager
def running(server: ApiServer) -> Iterator[ApiServer]:
    """Serve on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, extra, content = server.answer(self.path, self.headers, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{listening.server_port}"
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
