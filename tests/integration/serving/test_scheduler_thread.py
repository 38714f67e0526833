"""If the engine's thread fails, the process ends, so that its supervisor notices."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import time
from multitask_serving.triton import wire
from multitask_serving.triton.scheduler import RequestScheduler
from multitask_serving.triton.requests import TaskRequest

class Engine:
    def check(self, request):
        return type("Task", (), {"name": request.task, "type": "Generation"})

    def generate(self, requests, sampling):
        raise SystemExit(0)  # threads swallow it

class Sender:
    def is_cancelled(self):
        return False

RequestScheduler(Engine(), max_waiting=1).submit([TaskRequest(wire.Inputs("reply", {}, wire.Options()), Sender())])
time.sleep(60)
"""


def test_the_process_ends_with_the_engines_thread() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "the engine's thread failed; this process ends" in done.stderr
