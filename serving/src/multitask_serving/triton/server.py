"""Starts and stops the ``tritonserver`` binary of the PyPI package nvidia-pytriton.

The package is used for its binary only and never imported. What the binary needs, tried with Triton 2.51:

- the Python backend looks for its stub beside its library; the package keeps one stub per Python version elsewhere, so
  a folder of links brings the two together;
- the stub finds the environment through PATH, and libpython through LD_LIBRARY_PATH;
- with numpy 2 the stub silently reads wrong numbers, so numpy 2 is rejected;
- a killed process leaves its shared memory behind, so each server has its own prefix, by which `stop` removes it;
- the stub is started through a shell without quoting, and its interpreter reads paths as ASCII: with a space in a path
  the server waits for ever. So all paths are symbolic links with plain names.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from multitask_api.errors import RetryableError, UserError
from multitask_api.pdeathsig import die_with_parent
from multitask_serving.triton import wire

_SHARED_MEMORY = Path("/dev/shm")
_POLL_S = 0.05
_TAIL_LINES = 30
_CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0)]


class TritonNotInstalled(UserError):
    """The environment lacks something that Triton needs."""


class TritonFailed(RetryableError):
    """The server did not become ready, or ended by itself. The message includes the end of its log."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The paths of the server's parts."""

    binary: Path
    backends: Path
    caches: Path
    stub: Path


def find_installation() -> Installation:
    """Find the server in this environment. Raises `TritonNotInstalled`."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise TritonNotInstalled("tritonserver is not installed: run `uv pip install --no-deps nvidia-pytriton`")
    root = Path(spec.submodule_search_locations[0]) / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise TritonNotInstalled(f"nvidia-pytriton has no stub for Python {version}: use Python 3.11 or 3.12")
    numpy = importlib.metadata.version("numpy")
    if int(numpy.partition(".")[0]) >= 2:
        raise TritonNotInstalled(
            f"numpy {numpy} is installed, and Triton's stub does not work with it: install 'numpy<2'"
        )
    return Installation(root / "bin" / "tritonserver", root / "backends", root / "caches", stub)


class TritonServer:
    """A running server on the loopback interface. A context manager; `stop` may be called twice."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, shared_memory: str) -> None:
        self._process = process
        self._shared_memory = shared_memory
        self._stubs: list[int] = []
        self.port = port
        self.log = log

    @classmethod
    def start(
        cls, repository: Path, work: Path, *, port: int | None = None, ready_timeout_s: float = 300.0
    ) -> TritonServer:
        """Start a server over ``repository`` and wait until its model is ready.

        The log (``triton.log``) and links are written to ``work``. A ``port`` of None is any free port. The server ends
        with the *thread* that calls this, so call it from a thread that lives as long as the server should. Raises
        `TritonNotInstalled` or `TritonFailed`.
        """
        installation = find_installation()
        work.mkdir(parents=True, exist_ok=True)
        backends = _link_backends(installation, work / "backends")
        port = port or free_port()
        shared_memory = f"mtm-{os.getpid()}-{port}-"
        log = work / "triton.log"
        links = _link(f"{shared_memory}repository", repository), _link(f"{shared_memory}backends", backends)
        options = _server_arguments(links[0], links[1], installation.caches, port, shared_memory)
        with log.open("wb") as out:
            process = subprocess.Popen(
                die_with_parent([str(installation.binary), *options], signal.SIGTERM),
                cwd=work,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal then reaches this program only, which stops the server
            )
        server = cls(process, port, log, shared_memory)
        try:
            server._wait_ready(ready_timeout_s)
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
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def stub_pids(self) -> list[int]:
        """Process ids of the server's Python stubs."""
        return _children(self.pid)

    def lost_stubs(self) -> list[int]:
        """Process ids of the stubs that have died since the server became ready. Triton never restarts one."""
        return [pid for pid in self._stubs if not _is_alive(pid)]

    def exit_status(self) -> int | None:
        """The server's exit status (negative: the signal), or None while it runs."""
        return self._process.poll()

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
        left = [pid for pid in stubs if self._shared_memory in _command_line(pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _wait_for_end(left)
        for region in _SHARED_MEMORY.glob(f"{self._shared_memory}*"):
            region.unlink(missing_ok=True)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with contextlib.closing(
            tritonclient.grpc.InferenceServerClient(self.address, channel_args=_CHANNEL_OPTIONS)
        ) as client:
            while not _is_ready(client):
                if time.monotonic() > deadline:
                    raise self.failure(f"tritonserver was not ready within {timeout_s:g} s")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = self._process.wait(_POLL_S)
                    raise self.failure(f"tritonserver ended with status {status} before it was ready")


def free_port() -> int:
    """A port of the loopback interface that is free now. Another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def log_tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, without Triton's tables and blank lines."""
    with log.open(errors="replace") as text:
        return "".join(deque((line for line in text if not re.match(r"[+|]|\s*$", line)), lines)).rstrip()


def _is_ready(client: tritonclient.grpc.InferenceServerClient) -> bool:
    try:
        return bool(client.is_model_ready(wire.MODEL, client_timeout=5))
    except InferenceServerException:
        return False


def _server_arguments(repository: Path, backends: Path, caches: Path, port: int, shared_memory: str) -> Iterator[str]:
    yield f"--model-repository={repository}"
    yield f"--backend-directory={backends}"
    yield f"--cache-directory={caches}"
    yield from ("--model-control-mode=none", "--disable-auto-complete-config", "--exit-timeout-secs=10")
    yield from ("--grpc-address=127.0.0.1", f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false")
    yield f"--backend-config=python,shm-region-prefix-name={shared_memory}"


def _environment() -> dict[str, str]:
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join(path for path in libraries if path),
        "PYTHONUNBUFFERED": "1",  # so that the log is complete when a stub is killed
    }


def _link_backends(installation: Installation, folder: Path) -> Path:
    python = folder / "python"
    python.mkdir(parents=True, exist_ok=True)
    for source in (*(installation.backends / "python").iterdir(), installation.stub):
        link = python / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    return folder


def _link(name: str, folder: Path) -> Path:
    """A link to ``folder`` with a plain name. It has the server's prefix, so `TritonServer.stop` removes it too."""
    link = _SHARED_MEMORY / name
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve())
    return link


def _children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def _wait_for_end(pids: Iterable[int], timeout_s: float = 5.0) -> None:
    """Wait until killed processes, which are nobody's children here, are gone with what they hold open."""
    deadline = time.monotonic() + timeout_s
    while any(_is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
