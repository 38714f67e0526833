"""The whole product on one machine: data, training, qualification, serving, answers, report.

    python examples/support-desk/demo.py          (or: make demo)

It calls the ``mtm`` command as users do, and prints each call. The results are in ``.mtm/support-desk``.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

HERE = Path(__file__).resolve().parent
RESULT = Path(".mtm/support-desk")
MTM = str(Path(sys.executable).parent / "mtm")
# In tokens, because the time depends on the machine. Measured: 5,706,694; early stopping may change it.
MAX_TRAINING_TOKENS = 7_000_000
ANSWERS = ("label", "target", "targets")


def show(*command: str) -> None:
    """Print and run a command; if it fails, the demo ends."""
    print("\n$", shlex.join(["mtm" if part == MTM else part for part in command]), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)  # the command has printed the reason


def free_port() -> int:
    """A TCP port that is not in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_serving(address: str, server: subprocess.Popen[bytes], seconds: float = 180) -> None:
    """Poll the gateway's health service until its status is SERVING."""
    give_up = time.monotonic() + seconds
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
            if server.poll() is not None:
                sys.exit(f"mtm serve ended with status {server.returncode} before it served")
            if time.monotonic() > give_up:
                sys.exit(f"the gateway did not become healthy within {seconds:.0f} s")
            time.sleep(0.2)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a running ``mtm serve``; it is stopped at the end."""
    address = f"127.0.0.1:{free_port()}"
    print(f"\n$ mtm serve {folder} --address {address} &", flush=True)
    server = subprocess.Popen([MTM, "serve", str(folder), "--address", address])
    try:
        wait_until_serving(address, server)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    if server.returncode:
        sys.exit(f"mtm serve ended with status {server.returncode}")


def questions() -> Iterator[tuple[str, list[str], str]]:
    """One test row of every task: the task, its fields as ``name=value``, and the answer in the data."""
    for folder in sorted((HERE / "data").iterdir()):
        with gzip.open(folder / "test.jsonl.gz", "rt", encoding="utf-8") as rows:
            row = json.loads(next(rows))
        fields = [f"{name}={value}" for name, value in row.items() if name not in ANSWERS]
        answer = next(row[name] for name in ANSWERS if name in row)
        yield folder.name, fields, answer if isinstance(answer, str) else " | ".join(answer)


def training_tokens(report: dict[str, list[dict[str, object]]]) -> int:
    """Training tokens of all stages together."""
    return sum(int(str(stage.get("tokens") or 0)) for stage in report["stages"])


def main() -> None:
    os.chdir(HERE.parents[1])
    start = time.monotonic()
    here = HERE.relative_to(Path.cwd())
    show(sys.executable, str(here / "generate.py"))
    show(MTM, "run", str(here / "model.yaml"), "--claim", f"support-desk={here}", "--workdir", str(RESULT))
    trained = time.monotonic()

    with served(RESULT) as address:
        for task, fields, answer in questions():
            show(MTM, "predict", "--address", address, task, *fields)
            print(f"  (in the data: {answer})")
    show(MTM, "report", str(RESULT))

    report = json.loads((RESULT / "report.json").read_text(encoding="utf-8"))
    tokens = training_tokens(report)
    minutes, training = (time.monotonic() - start) / 60, (trained - start) / 60
    print(f"\nqualified {report['qualified']}/{report['total']}, confirmed {report['confirmed']}")
    print(f"{minutes:.1f} minutes, {training:.1f} of them for `mtm run`; {tokens:,} training tokens.")
    print(f"The report: {RESULT / 'report.html'} and {RESULT / 'report.json'}")
    if not (RESULT / "report.html").is_file():
        sys.exit("report.html is missing")
    if tokens > MAX_TRAINING_TOKENS:
        sys.exit(f"training took {tokens:,} tokens; this demo may take {MAX_TRAINING_TOKENS:,}")


if __name__ == "__main__":
    main()
