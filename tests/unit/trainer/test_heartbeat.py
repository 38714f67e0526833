"""A stage that has nothing new to report is alive as long as it does something, and a program that hangs is not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from multitask_api.cluster import PROGRESS_KEY
from multitask_trainer.pod.configmap import ConfigMap, connect
from multitask_trainer.pod.heartbeat import INTERVAL, Heartbeat, moved, moved_or_computed
from multitask_trainer.pod.reporters import ConfigMapProgressReporter
from support.fake_api_server import NAME, ApiServer, running


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with running(ApiServer()) as running_server:
        yield running_server


#: MiB or seconds that a minute adds, and the reports that follow from it.
MINUTES = [
    ("a download", [50.0, 80.0, 3.0], 3),
    ("a program that hangs", [0.0, 0.0, 0.0], 0),
    ("a program that hangs and prints", [0.01, 0.5, 1.0], 0),
    ("a store that was away for a minute", [40.0, 0.0, 40.0], 2),
]


@pytest.mark.parametrize("reported", [True, False], ids=["a phase was reported", "nothing was"])
@pytest.mark.parametrize(("sentence", "minutes", "reports"), MINUTES, ids=[row[0] for row in MINUTES])
def test_the_last_report_is_repeated_in_a_minute_in_which_something_was_done(
    server, sentence, minutes, reports, reported
):
    now, done = 1000.0, 7.0
    with connect({}, server.url) as client:
        reporter = ConfigMapProgressReporter("base", ConfigMap(NAME, client), lambda: now)
        if reported:
            reporter.report("making the base", step=3, total=9)
        heartbeat = Heartbeat(reporter, lambda: done)
        before = len(server.patches)
        for work in minutes:
            now += INTERVAL
            done += work
            heartbeat.beat()
    repeated = [json.loads(patch["data"][PROGRESS_KEY]) for patch in server.patches[before:]]
    assert len(repeated) == reports
    step = (3, 9) if reported else (0, 0)
    assert {(item["phase"], item.get("step", 0), item.get("total", 0)) for item in repeated} <= {
        ("making the base" if reported else "starting", *step)
    }, "it does not invent a step"


def test_a_report_that_came_too_early_to_be_written_is_the_one_that_is_repeated(server):
    now, done = 1000.0, 0.0
    with connect({}, server.url) as client:
        reporter = ConfigMapProgressReporter("base", ConfigMap(NAME, client), lambda: now)
        heartbeat = Heartbeat(reporter, lambda: done)
        reporter.report("reading")
        reporter.report("testing the base")  # within two seconds
        now, done = now + INTERVAL, 100.0
        heartbeat.beat()
    assert json.loads(server.data[PROGRESS_KEY])["phase"] == "testing the base"


def test_what_a_process_does_is_counted(tmp_path):
    before, with_time = moved(), moved_or_computed()
    (tmp_path / "file").write_bytes(b"x" * (20 << 20))
    assert len((tmp_path / "file").read_bytes()) == 20 << 20
    assert moved() - before >= 40
    assert moved_or_computed() - with_time >= 40


def test_it_ends_with_its_stage(server):
    with connect({}, server.url) as client:
        reporter = ConfigMapProgressReporter("base", ConfigMap(NAME, client))
        heartbeat = Heartbeat(reporter, moved)
        with pytest.raises(KeyboardInterrupt), heartbeat:
            raise KeyboardInterrupt
    assert not heartbeat._thread.is_alive()
