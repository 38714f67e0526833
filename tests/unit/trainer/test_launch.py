"""A pod of a Job on several nodes that waits in vain for the others."""

from __future__ import annotations

import socket

import pytest

from multitask_api.cluster import EXIT_ALONE, EXIT_DONE
from multitask_trainer import launch

PROGRAM = ["-m", "json.tool", "--help"]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.parametrize("node", ["0", "1"])
def test_it_ends_with_a_status_of_its_own_which_the_job_does_not_count(
    node: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "RENDEZVOUS_TIMEOUT", 1)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", node)
    master = f"127.0.0.1:{free_port()}"
    assert launch.main(["--nodes", "2", "--master", master, *PROGRAM]) == EXIT_ALONE
    assert f"the pods of this stage could not meet at {master}" in capfd.readouterr().err


def test_a_pod_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "RENDEZVOUS_TIMEOUT", 1)
    assert launch.main(PROGRAM) == EXIT_DONE
