"""Starts and stops the ``tritonserver`` binary. What it needs, tried with Triton 2.51:

- the stub finds the environment through PATH, and libpython through LD_LIBRARY_PATH;
- a killed process leaves its shared memory behind, so each server has its own prefix, by which `stop` removes it;
- the stub is started through a shell without quoting, and its interpreter reads paths as ASCII: with a space in a path
  the server waits for ever. So all paths are symbolic links with plain names.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from multitask_api.errors import RetryableError
from multitask_api.pdeathsig import die_with_parent
from multitask_serving.listening import check_address
from multitask_serving.triton import wire
from multitask_serving.triton.installation import find_installation, link_backends
from multitask_serving.triton.log import copy_log, log_tail
from multitask_serving.triton.processes import children, command_line, is_alive, wait_for_end

LOOPBACK = "127.0.0.1"
_SHARED_MEMORY = Path("/dev/shm")
_POLL_S = 0.05
_CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0)]


class TritonFailed(RetryableError):
    """The server did not become ready, or ended by itself. The message includes the end of its log."""


class TritonServer:
    """A running server. A context manager; `stop` may be called twice."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, shared_memory: str) -> None:
        self._process = process
        self._shared_memory = shared_memory
        self._stubs: list[int] = []
        self.port = port
        self.log = log

    @classmethod
    def start(
        cls,
        repository: Path,
        work: Path,
        *,
        host: str = LOOPBACK,
        port: int | None = None,
        ready_timeout_s: float = 300.0,
        echo_log: bool = False,
    ) -> TritonServer:
        """Start a server over ``repository`` and wait until its model is ready.

        It listens on ``host``; a ``port`` of None is any free port. The log (``triton.log``) and links are written to
        ``work``; with ``echo_log`` the log is also this program's output. The server ends with the *thread* that calls
        this, so call it from a thread that lives as long as the server should. Raises `TritonNotInstalled`,
        `AddressInUse` or `TritonFailed`.
        """
        installation = find_installation()
        work.mkdir(parents=True, exist_ok=True)
        backends = link_backends(installation, work / "backends")
        if port is None:
            port = free_port()
        else:
            check_address(f"{host}:{port}")
        shared_memory = f"mtm-{os.getpid()}-{port}-"
        identity = secrets.token_hex(8)
        log = work / "triton.log"
        links = _link(f"{shared_memory}repository", repository), _link(f"{shared_memory}backends", backends)
        options = _server_arguments(identity, *links, installation.caches, f"{host}:{port}", shared_memory)
        with log.open("wb") as out:
            process = subprocess.Popen(
                die_with_parent([str(installation.binary), *options], signal.SIGTERM),
                cwd=work,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if echo_log else out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal then reaches this program only, which stops the server
            )
        if process.stdout is not None:
            copy_log(process.stdout, log)
        server = cls(process, port, log, shared_memory)
        try:
            server._wait_ready(identity, ready_timeout_s)
            server._stubs = server.stub_pids()
            for link in links:  # everything is loaded, and a killed server would leave them behind
                link.unlink()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def address(self) -> str:
        """Host and port of the gRPC endpoint."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def stub_pids(self) -> list[int]:
        """Process ids of the server's Python stubs."""
        return children(self.pid)

    def lost_stubs(self) -> list[int]:
        """Process ids of the stubs that have died since the server became ready. Triton never restarts one."""
        return [pid for pid in self._stubs if not is_alive(pid)]

    def exit_status(self) -> int | None:
        """The server's exit status (negative: the signal), or None while it runs."""
        return self._process.poll()

    def check_running(self) -> None:
        """Raise `TritonFailed` if the server has ended, or one of its stubs."""
        status = self.exit_status()
        if status is not None:
            raise self.failure(f"Triton ended with status {status}")
        if self.lost_stubs():
            raise self.failure("Triton's model process died")

    def failure(self, message: str) -> TritonFailed:
        """An error with ``message`` and the end of the log."""
        return TritonFailed(f"{message}. The end of {self.log}:\n{log_tail(self.log)}")

    def stop(self, timeout_s: float = 20.0) -> None:
        """Send SIGTERM to the server, and SIGKILL after ``timeout_s`` seconds; end its stubs.

        A server whose stub has died would only wait for it, so it gets SIGKILL at once.
        """
        stubs = {*self._stubs, *self.stub_pids()}  # a killed server no longer has children
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(0 if self.lost_stubs() else timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # Of another command line: it has ended, and its id may be another process's.
        left = [pid for pid in stubs if self._shared_memory in command_line(pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for_end(left)
        for region in _SHARED_MEMORY.glob(f"{self._shared_memory}*"):
            region.unlink(missing_ok=True)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_ready(self, identity: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with contextlib.closing(
            tritonclient.grpc.InferenceServerClient(self.address, channel_args=_CHANNEL_OPTIONS)
        ) as client:
            while not _is_ready(client, identity):
                if time.monotonic() > deadline:
                    raise self.failure(f"tritonserver was not ready within {timeout_s:g} s")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = self._process.wait(_POLL_S)
                    raise self.failure(f"tritonserver ended with status {status} before it was ready")


def free_port() -> int:
    """A port of the loopback interface that is free now. Another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_ready(client: tritonclient.grpc.InferenceServerClient, identity: str) -> bool:
    """Whether the server of that ``identity`` answers with a model; another one may have taken the port."""
    try:
        is_ours = client.get_server_metadata(client_timeout=5).name == identity
        return is_ours and bool(client.is_model_ready(wire.MODEL, client_timeout=5))
    except InferenceServerException:
        return False


def _server_arguments(
    identity: str, repository: Path, backends: Path, caches: Path, address: str, shared_memory: str
) -> Iterator[str]:
    host, _, port = address.rpartition(":")
    yield f"--id={identity}"  # its name in the metadata that it answers
    yield f"--model-repository={repository}"
    yield f"--backend-directory={backends}"
    yield f"--cache-directory={caches}"
    yield from ("--model-control-mode=none", "--disable-auto-complete-config", "--exit-timeout-secs=10")
    yield from (f"--grpc-address={host}", f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false")
    # Clients ask whether the connection lives while a long request runs; by default Triton ends it for the third time.
    yield f"--grpc-http2-min-recv-ping-interval-without-data={wire.KEEPALIVE_MS // 2}"
    yield f"--backend-config=python,shm-region-prefix-name={shared_memory}"


def _environment() -> dict[str, str]:
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join(path for path in libraries if path),
        "PYTHONUNBUFFERED": "1",  # so that the log is complete when a stub is killed
    }


def _link(name: str, folder: Path) -> Path:
    """A link to ``folder`` with a plain name. It has the server's prefix, so `TritonServer.stop` removes it too."""
    link = _SHARED_MEMORY / name
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve())
    return link
