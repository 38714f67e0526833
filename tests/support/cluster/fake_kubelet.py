"""A node with the HTTPS endpoint of a kubelet from which the API server reads logs."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx

from devcluster import objects
from devcluster.cluster_client import ClusterClient


class Logs:
    """``lines`` of every container; a request that follows gets the rest when ``more`` is set."""

    def __init__(self, lines, rest=()):
        self.lines, self.rest = list(lines), list(rest)
        self.more = threading.Event()
        self.asked = []


@contextmanager
def kubelet(cluster: ClusterClient, rest: httpx.Client, name: str, logs: Logs) -> Iterator[None]:
    """A node called ``name`` whose port serves ``logs``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            address = urlsplit(self.path)
            logs.asked.append(address.path)
            query = parse_qs(address.query)
            shown = logs.lines[-int(query["tailLines"][0]) :] if "tailLines" in query else logs.lines
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._piece("".join(shown))
            if query.get("follow") == ["true"]:
                logs.more.wait(30)
                self._piece("".join(logs.rest))
            self.wfile.write(b"0\r\n\r\n")

        def _piece(self, text):
            data = text.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

        def log_message(self, *_):
            """Do not print requests."""

    pair = cluster.authority.sign(f"kubelet-{name}", f"system:node:{name}", hosts=("IP:127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        objects.node(rest, name)
        where = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_address[1]}},
        }
        objects.patch_status(rest, f"/api/v1/nodes/{name}", where)
        try:
            yield
        finally:
            rest.delete(f"/api/v1/nodes/{name}")
            logs.more.set()
            server.shutdown()
