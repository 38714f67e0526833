"""The HTTP server for Kubernetes: ``/startup``, ``/ready``, ``/live``, and ``/drain`` for preStop."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from multitask_serving.listening import AddressInUse
from multitask_serving.pod.health import Answer, Health


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        """Listen for IPv4 too: a pod has addresses of either kind, or of both."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


@contextlib.contextmanager
def probe_server(health: Health, port: int, drain_timeout_s: float) -> Iterator[int]:
    """Answer on all addresses of the pod while the context is open; gives the port (0: any free one).

    Raises `AddressInUse`.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = _answer(health, self.path.partition("?")[0], drain_timeout_s)
            body = b"not found" if answer is None else answer.body.encode()
            self.send_response(404 if answer is None else 200 if answer.passes else 503)
            self.send_header("Content-Type", "text/plain" if answer is None else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a probe that has run out of time
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds."""

    with _listen(port, Handler) as server:
        threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _listen(port: int, handler: type[BaseHTTPRequestHandler]) -> _Server:
    try:
        return _Server(("", port), handler)
    except OSError as error:
        raise AddressInUse(
            f"cannot listen at port {port}: {error.strerror}; free it, or choose another with --probe-port"
        ) from error


def _answer(health: Health, path: str, drain_timeout_s: float) -> Answer | None:
    match path:
        case "/startup":
            return health.startup()
        case "/ready":
            return health.ready()
        case "/live":
            return health.live()
        case "/drain":
            return health.drain(drain_timeout_s)
    return None
