"""What is written about the largest model that the schema takes, in every phase: its status, and annotations."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import MANIFESTS_KEY, ORDERS_KEY, PROGRESS_KEY, RESOLVED_KEY
from multitask_api.stage_io.manifest import StageProgress
from multitask_api.stage_io.packing import pack_manifests
from support.budgets import ANNOTATION_BYTES, STAGE_ROWS, STATUS_BYTES, largest
from support.graph_builders import all_done, resolved
from support.simulation import BEGAN, Cluster

#: In Ready and in Progressing: the longest message there can be, of characters that take the most bytes.
LONG = "\U0001f525" * 20_000


class Largest(Cluster):
    """What it comes to, phase by phase."""

    def __init__(self):
        training = {"maxParallelJobs": 64, "gpusPerNode": 0}
        super().__init__(*largest(), filtering={"strategy": "Manual"}, training=training)

    def holding(self, until, **results):
        """Resolve finds in storage what comes before the stages whose names begin with ``until``."""
        self.settle()
        (name,) = self.jobs("resolve")
        self.finish(name)
        manifests = all_done(self.resource, until, serve=False, **results)
        packed, kept = pack_manifests(manifests.values())
        assert kept == len(manifests)
        self.objects["ConfigMap", name]["binaryData"] = {MANIFESTS_KEY: packed}
        self.settle()

    def fail(self, kind):
        """The first Job of ``kind`` ends badly, and its program says so at length."""
        name = self.jobs(kind)[0]
        configmap = self.objects["ConfigMap", name]
        order = json.loads(configmap["data"][ORDERS_KEY])["orders"][0]
        failure = {"stage": order["stage"], "kind": "UserError", "message": LONG, "digest": order["digest"]}
        configmap["data"]["failure.json"] = json.dumps(failure)
        self.end(name, "Failed", LONG)
        self.settle()

    def report(self, kind):
        """Every Job of ``kind`` says where it is."""
        for name in self.jobs(kind):
            progress = StageProgress(stage="s", step=123_456, total=1_234_567, loss=123.456, updated=BEGAN + 9_999_999)
            self.objects["ConfigMap", name]["data"][PROGRESS_KEY] = progress.model_dump_json(by_alias=True)
            self.objects["Job", name]["status"] = {"startTime": "2027-01-15T08:00:00Z"}
        self.now += 60
        self.settle()


def nothing(cluster):
    cluster.settle()


def not_found(cluster):
    cluster.settle()
    (name,) = cluster.jobs("resolve")
    report = resolved(cluster.resource)
    missing = report.model_copy(update={"problems": tuple(f"{uri}: {LONG[:1000]}" for uri in report.data)})
    cluster.objects["ConfigMap", name]["data"][RESOLVED_KEY] = missing.model_dump_json(by_alias=True)
    cluster.end(name, "Complete")
    cluster.settle()


def preparing(cluster):
    cluster.holding("prepare")


def training(cluster):
    cluster.holding("baseline")
    cluster.report("baseline")


def failed(cluster):
    cluster.holding("baseline")
    cluster.fail("baseline")


def judged_and_failed(cluster):
    cluster.holding("export")
    cluster.fail("export")


def trained(cluster):
    cluster.holding("")


def trained_and_then_refused(cluster):
    cluster.holding("")
    cluster.model["spec"]["tasks"][0]["promptFrom"] = {"name": LONG[:253], "key": LONG[:253]}
    cluster.model["spec"]["tasks"][0]["prompt"] = LONG
    cluster.settle()


PHASES = (nothing, not_found, preparing, training, failed, judged_and_failed, trained, trained_and_then_refused)


def size(value):
    """As the API server stores it."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_what_is_written_about_the_largest_model(phase):
    cluster = Largest()
    phase(cluster)
    status = cluster.model["status"]
    assert size(status) <= STATUS_BYTES
    assert len(status["stages"]) <= STAGE_ROWS
    for key, item in cluster.objects.items():
        assert size(item["metadata"].get("annotations", {})) <= ANNOTATION_BYTES, key
