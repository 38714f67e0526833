"""The container of a revision's servers: when it counts as started, ready and alive, and what it says."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask_api.serving_io.names import LIVENESS_SECONDS
from multitask_serving.pod import program
from multitask_serving.pod.golden import GoldenCheck, WrongAnswers, judge
from multitask_serving.pod.health import Health
from multitask_serving.pod.probes import probe_server
from multitask_serving.triton.devices import container_cpus, out_of_memory_kills
from multitask_serving.triton.installation import find_installation
from multitask_serving.triton.probe import GoldenRequest, Mismatch, load_golden
from multitask_serving.triton.server import TritonFailed

GPU, OTHER_GPU = "NVIDIA H100 80GB HBM3", "NVIDIA L4"
CHECK = GoldenCheck(8, 0, "cpu", ("cpu",), "all equal")

# -- golden requests ---------------------------------------------------------------------------------------------------


def golden(device: str | None) -> GoldenRequest:
    return GoldenRequest("urgency", {"text": "x"}, "low", device=device)


JUDGED = [
    # the devices of the evaluation, that of the server, the numbers of requests that differ, and of those without an
    # answer, whether the server is refused
    ("equal answers on the same device", ["cpu", "cpu"], "cpu", [], [], False),
    ("equal answers on another device", [GPU, GPU], "cpu", [], [], False),
    ("another answer on the same device", [GPU, GPU], GPU, [1], [], True),
    ("another answer on another GPU", [OTHER_GPU, OTHER_GPU], GPU, [0, 1], [], False),
    ("another answer on a CPU", [GPU], "cpu", [0], [], False),
    ("another answer where the device was not recorded", [None], GPU, [0], [], False),
    ("of two devices the other one differs", [GPU, OTHER_GPU], GPU, [1], [], False),
    ("of two devices the same one differs", [GPU, OTHER_GPU], GPU, [0], [], True),
    ("no answer on another GPU", [OTHER_GPU], GPU, [], [0], True),
]


@pytest.mark.parametrize(
    ("measured", "device", "other", "none", "refused"), [case[1:] for case in JUDGED], ids=[case[0] for case in JUDGED]
)
def test_a_server_takes_traffic_unless_it_answers_wrongly_on_the_device_of_the_evaluation(
    measured: list[str | None], device: str, other: list[int], none: list[int], refused: bool
) -> None:
    requests = [golden(each) for each in measured]
    mismatches = [Mismatch(requests[at], "high") for at in other]
    mismatches += [Mismatch(requests[at], "BackendTimeout: late", answered=False) for at in none]
    if refused:
        with pytest.raises(
            WrongAnswers, match=f"golden requests have other answers .* device .{device}.: task 'urgency'"
        ):
            judge(requests, mismatches, device)
        return
    check = judge(requests, mismatches, device)
    assert (check.compared, check.different, check.device) == (len(requests), len(other), device)
    assert set(check.measured_on) == {each or "an unrecorded device" for each in measured}
    assert ("allowed on another kind of device" in check.summary) == bool(other)


def test_the_device_of_the_evaluation_is_read_with_the_requests(tmp_path: Path) -> None:
    rows = [{"task": "t", "fields": {}, "label": "a"}, {"task": "t", "fields": {}, "text": "b", "device": GPU}]
    (tmp_path / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [request.device for request in load_golden(tmp_path / "golden.jsonl")] == [None, GPU]


# -- probes ------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


Steps = list[Callable[[Health], object]]


def pass_by(seconds: float) -> Callable[[Health], object]:
    def step(health: Health) -> None:
        clock = health._clock
        assert isinstance(clock, Clock)
        clock.now += seconds

    return step


STARTED: Steps = [Health.model_is_loaded, lambda health: health.started(CHECK)]
LATE = pass_by(LIVENESS_SECONDS + 1)
STATES: list[tuple[str, Steps, tuple[bool, bool, bool]]] = [
    # what has happened, and whether /startup, /ready and /live pass
    ("nothing yet", [], (False, False, True)),
    ("a large model is being loaded", [LATE], (False, False, True)),
    ("the model is loaded", [Health.model_is_loaded], (False, False, True)),
    ("the golden answers do not come", [Health.model_is_loaded, LATE], (False, False, False)),
    ("started", STARTED, (True, True, True)),
    ("silent for a while", [*STARTED, pass_by(LIVENESS_SECONDS - 1)], (True, True, True)),
    ("silent for too long", [*STARTED, LATE], (True, True, False)),
    ("silent, then an answer", [*STARTED, LATE, Health.alive], (True, True, True)),
    ("draining", [*STARTED, Health.want_drain], (True, False, True)),
    ("draining and silent", [*STARTED, Health.want_drain, LATE], (True, False, False)),
    ("drained", [*STARTED, Health.want_drain, Health.drained], (True, False, True)),
    ("asked to drain before it has started", [Health.want_drain, *STARTED], (True, False, True)),
]


@pytest.mark.parametrize(("steps", "passes"), [case[1:] for case in STATES], ids=[case[0] for case in STATES])
def test_probes_pass_by_what_has_happened(steps: Steps, passes: tuple[bool, bool, bool]) -> None:
    health = Health(Clock())
    for step in steps:
        step(health)
    assert (health.startup().passes, health.ready().passes, health.live().passes) == passes


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_kubernetes_asks_over_http() -> None:
    health = Health()
    with probe_server(health, 0, drain_timeout_s=30) as port:
        assert [get(port, path)[0] for path in ("/startup", "/ready", "/live", "/other")] == [503, 503, 200, 404]
        health.model_is_loaded()
        health.started(CHECK)
        health.in_flight(2)
        status, body = get(port, "/ready?verbose")
        assert status == 200
        assert json.loads(body) == {
            "state": "Serving",
            "secondsSinceAnswer": pytest.approx(0, abs=20),
            "inFlight": 2,
            "golden": {
                "compared": 8,
                "different": 0,
                "device": "cpu",
                "measuredOn": ["cpu"],
                "summary": "all equal",
            },
        }


def test_a_drain_answers_when_nothing_is_in_flight_and_probes_are_answered_meanwhile() -> None:
    health, wanted, answered = Health(), threading.Event(), threading.Event()
    health.on_drain(wanted.set)
    health.started(CHECK)
    statuses: list[int] = []
    with probe_server(health, 0, drain_timeout_s=30) as port:

        def drain() -> None:
            statuses.append(get(port, "/drain")[0])
            answered.set()

        threading.Thread(target=drain).start()
        assert wanted.wait(10)
        assert [get(port, path)[0] for path in ("/startup", "/ready", "/live")] == [200, 503, 200]
        assert not answered.is_set()
        health.drained()
        assert answered.wait(10)
    assert statuses == [200]


def test_a_drain_that_takes_too_long_says_so() -> None:
    health = Health()
    health.started(CHECK)
    with probe_server(health, 0, drain_timeout_s=0.01) as port:
        assert get(port, "/drain")[0] == 503


def test_a_pod_that_has_never_been_ready_is_drained_at_once() -> None:
    health = Health()
    with probe_server(health, 0, drain_timeout_s=3600) as port:
        assert get(port, "/drain")[0] == 200
        assert get(port, "/ready")[0] == 503


# -- the machine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "cpus"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("?", None),
        (None, None),
    ],
)
def test_torch_gets_the_cpus_of_the_container(tmp_path: Path, content: str | None, cpus: int | None) -> None:
    if content is not None:
        (tmp_path / "cpu.max").write_text(content)
    assert container_cpus(tmp_path / "cpu.max") == cpus


@pytest.mark.parametrize(
    ("content", "kills"), [("low 0\noom 3\noom_kill 2\n", 2), ("low 0\n", 0), ("oom_kill\n", 0), (None, 0)]
)
def test_kills_for_want_of_memory_are_counted(tmp_path: Path, content: str | None, kills: int) -> None:
    if content is not None:
        (tmp_path / "memory.events").write_text(content)
    assert out_of_memory_kills(tmp_path / "memory.events") == kills


def test_a_server_that_died_for_want_of_memory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = iter((1, 2))

    def die(*_: object) -> None:
        raise TritonFailed("Triton's model process died")

    monkeypatch.setattr(program, "out_of_memory_kills", lambda: next(kills))
    monkeypatch.setattr(program, "run", die)
    assert program.main(["--device=cpu", f"--export={tmp_path}"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: Triton's model process died",
        "error: the container had no memory left; raise its memory in spec.serving.resources",
    ]


def test_triton_of_the_image_comes_before_that_of_the_environment(tmp_path: Path) -> None:
    own = find_installation(tmp_path)
    assert not own.binary.is_relative_to(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").touch()
    found = find_installation(tmp_path)
    assert found.binary == tmp_path / "bin" / "tritonserver"
    assert found.stub == tmp_path / "backends" / "python" / "triton_python_backend_stub"
