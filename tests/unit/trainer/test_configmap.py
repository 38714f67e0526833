"""What a stage pod writes into its ConfigMap, and for how long it tries."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from multitask_api.cluster import FAILURE_KEY, PROGRESS_KEY
from multitask_api.stage_io.manifest import StageFailure
from multitask_trainer.errors import Unreported
from multitask_trainer.pod.configmap import ConfigMap, connect
from multitask_trainer.pod.reporters import ConfigMapProgressReporter, ConfigMapResultReporter
from support.fake_api_server import NAME, ApiServer, running


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with running(ApiServer()) as running_server:
        yield running_server


@pytest.fixture
def time() -> Time:
    return Time()


def configmap(server: ApiServer | str, time: Time, name: str = NAME, account: Path = Path("/nowhere")) -> ConfigMap:
    url = server if isinstance(server, str) else server.url
    return ConfigMap(name, connect({}, url, account), time.clock, time.sleep)


CHANGE = {"data": {"a": "b"}}

PASSING = [
    # what the server says before it takes the patch, the pauses
    ([], []),
    ([(403, {})] * 3, [0.5, 1, 2]),
    ([(401, {})], [0.5]),
    ([(409, {}), (429, {"Retry-After": "4"}), (500, {}), (503, {})], [0.5, 4, 2, 4]),
    ([(429, {"Retry-After": "3600"})], [10]),
]


@pytest.mark.parametrize(("refusals", "pauses"), PASSING)
def test_what_may_pass_is_tried_again(server, time, refusals, pauses):
    server.refusals = list(refusals)
    configmap(server, time).patch(CHANGE)
    assert server.data == {"a": "b"}
    assert time.slept == pauses


LASTING = [
    # what the server always says, after how many seconds at most it is given up, what the error says
    (403, 60, r"ConfigMap team/unit was not written: 403 no, 403; may this pod's service account patch it\?"),
    (503, 300, "503 no, 503"),
    (404, 0, "404 no, 404; nobody waits for this result any more"),
    (422, 0, "422 no, 422"),
]


@pytest.mark.parametrize(("status", "seconds", "message"), LASTING)
def test_what_does_not_pass_is_given_up(server, time, status, seconds, message):
    server.refusals = [(status, {})] * 1000
    with pytest.raises(Unreported, match=message):
        configmap(server, time).patch(CHANGE)
    assert seconds - 10 <= time.now <= seconds


def test_a_server_that_cannot_be_reached_is_tried_again(time):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unreported, match="ConnectError"):
            configmap(url, time).patch(CHANGE)
    assert 290 <= time.now <= 300


def test_the_token_is_read_anew_for_every_request(server, time, tmp_path):
    own = configmap(server, time, account=tmp_path)
    (tmp_path / "token").write_text("first\n")
    own = configmap(server, time, account=tmp_path)
    own.patch(CHANGE)
    (tmp_path / "token").write_text("second\n")
    own.patch(CHANGE)
    assert server.tokens == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}, "https://10.0.0.1"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://[fd00::1]:6443"),
    ],
)
def test_in_a_pod_the_api_server_is_where_the_environment_says(environment, url):
    with connect(environment, account=Path("/nowhere")) as client:
        assert str(client.base_url).rstrip("/") == url


def test_progress_is_said_every_15_seconds_and_every_2_when_the_phase_changes(server, time):
    now = Time()
    reporter = ConfigMapProgressReporter("base", configmap(server, time), now.clock)
    for second, phase in [(100, "a"), (101, "b"), (102, "b"), (110, "b"), (117, "b"), (118, "c"), (119, "c")]:
        now.now = second
        reporter.report(phase, step=second)
    reports = [json.loads(patch["data"][PROGRESS_KEY]) for patch in server.patches]
    assert [(item["step"], item["phase"], item["updated"]) for item in reports] == [
        (100, "a", 100),
        (102, "b", 102),
        (117, "b", 117),
        (119, "c", 119),
    ]


def test_progress_that_is_refused_holds_nothing_up(server, time, capsys):
    now = Time()
    reporter = ConfigMapProgressReporter("base", configmap(server, time), now.clock)
    server.refusals = [(500, {})]
    for second in (100, 130, 170, 176):
        now.now = second
        reporter.report("training", step=second)
    assert time.slept == []
    assert [json.loads(patch["data"][PROGRESS_KEY])["step"] for patch in server.patches] == [176]
    assert "base: progress was not reported" in capsys.readouterr().err


def test_the_failures_of_a_pod_are_reported_together_and_the_next_attempt_removes_them(server, time):
    results = ConfigMapResultReporter(configmap(server, time))
    results.failed(StageFailure(stage="prepare/a", kind="UserError", message="bad row"), "d1")
    results.failed(StageFailure(stage="prepare/b", kind="UserError", message="no file"), "d2")
    assert json.loads(server.data[FAILURE_KEY]) == {
        "stage": "prepare/a",
        "kind": "UserError",
        "message": "bad row\nprepare/b: no file",
        "digest": "d1",
        "others": [{"stage": "prepare/b", "kind": "UserError", "message": "no file", "digest": "d2"}],
    }
    results.begin()
    assert FAILURE_KEY not in server.data


def test_a_failure_too_long_for_a_config_map_is_cut(server, time):
    results = ConfigMapResultReporter(configmap(server, time))
    results.failed(StageFailure(stage="prepare/a", kind="UserError", message="x" * 2_000_000), "d1")
    for number in range(100):
        results.failed(StageFailure(stage=f"prepare/{number}", kind="UserError", message="x" * 20_000), "d2")
    assert len(server.data[FAILURE_KEY]) < 60_000
    assert "(the rest is in the pod's log)" in server.data[FAILURE_KEY]
