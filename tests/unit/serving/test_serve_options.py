"""Options of ``mtm serve`` that this machine cannot satisfy end in one line, before anything starts."""

from __future__ import annotations

import pytest

from multitask_serving import serve
from multitask_serving.triton import devices

DEVICES = [
    # device, GPUs, what is said; None: it is there
    ("cpu", 0, None),
    ("cuda", 1, None),
    ("cuda:0", 1, None),
    ("cuda:3", 4, None),
    ("cuda", 0, "--device cuda: this machine has no NVIDIA GPU that this process can use; use cpu"),
    ("cuda:7", 1, "--device cuda:7: there is no such GPU; this process can use cuda:0"),
    ("cuda:4", 4, "--device cuda:4: there is no such GPU; this process can use cuda:0 to cuda:3"),
    ("cuda:-1", 1, "--device cuda:-1: there is no such device; use cpu, cuda or cuda:N"),
]


@pytest.mark.parametrize(("device", "gpus", "message"), DEVICES, ids=[f"{row[0]} of {row[1]}" for row in DEVICES])
def test_a_device_is_looked_up_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, message: str | None
) -> None:
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    if message is None:
        devices.check_device(device)
        return
    with pytest.raises(devices.NoSuchDevice) as caught:
        devices.check_device(device)
    assert str(caught.value) == message


@pytest.mark.parametrize("threads", ["0", "-1", "2.5", "many", ""])
def test_threads_are_one_or_more(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        serve.main(["folder", f"--threads={threads}"])
    assert ended.value.code == 2
    assert f"argument --threads: {threads!r} is not a number of threads; it is 1 or more" in capsys.readouterr().err
