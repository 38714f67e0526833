"""Jobs that verify a revision check the gateways' certificate against the authority that there is now."""

from __future__ import annotations

import dataclasses

import pytest

from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_operator.text_file import TextFile
from support.graph_builders import task
from support.simulated_servers import SERVING_SETTINGS, ServedCluster


def settings(certificates):
    file = TextFile("/etc/multitask/gateway-ca/ca.crt", certificates)
    return dataclasses.replace(SERVING_SETTINGS, gateway_ca_file=file)


def verification(cluster) -> tuple[str, str, bool]:
    """Name of the Job, what it checks certificates against, and whether it is open."""
    (name,) = cluster.jobs(VERIFY_REVISION, open_only=False)
    return name, cluster.objects["ConfigMap", name]["data"]["ca.crt"], name in cluster.jobs()


@pytest.mark.parametrize(
    ("now", "expected"), [("first", ("first", False)), ("second", ("second", True))], ids=["the same", "another"]
)
def test_one_that_failed_is_tried_again_at_once_with_another_authority(now, expected):
    cluster = ServedCluster(task("urgency"), settings=settings("first")).serve_until_verified()
    name, checked, is_open = verification(cluster)
    assert (checked, is_open) == ("first", True)
    cluster.end(name, "Failed", "certificate verify failed")
    cluster.objects["Job", name]["status"]["conditions"][0]["lastTransitionTime"] = "2027-01-15T08:00:00Z"
    cluster.now = 1_800_000_050.0
    cluster.settings = settings(now)
    cluster.settle()
    assert verification(cluster) == (name, *expected)
