"""Labels that come later, to gateways of a cluster as processes: any of them takes the label of any answer."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from devcluster.cluster_client import ClusterClient
from multitask_api.serving_io.gateway_state import LabelCounts
from multitask_client import AsyncTaskClient, FailedPrecondition
from support.cluster.gateway_process import HOST, GatewayProcess, put_pods, put_route, route, run_gateway, soon, task
from support.fake_triton import FakeTriton, running

pytestmark = pytest.mark.integration


def labels(gateway: GatewayProcess) -> dict[str, LabelCounts]:
    """Revision → the labels that it has had."""
    return {each.revision: each.labels for each in gateway.state().counts if each.labels is not None}


async def test_labels_of_answers_are_counted_by_whichever_gateway_gets_them(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    full = f"{namespace}/desk/urgency"
    (tmp_path / "key").write_text("k" * 48 + "\n")
    on = {"MULTITASK_LABEL_KEY_FILE": str(tmp_path / "key")}

    def step(window: str) -> int:
        return put_route(rest, namespace, route(namespace, task("urgency", {"old": 100}, window=window)))

    async with running(FakeTriton(HOST)) as pods:
        put_pods(rest, namespace, "old", pods)
        step("new/1")
        with run_gateway(cluster.admin, tmp_path, namespace, name="gateway-a", **on) as gateway:
            async with AsyncTaskClient(gateway.address) as client:
                ids = [(await client.predict(full, text="x")).request_id for _ in range(5)]
                assert await client.report_label(ids[0], "low")
            assert labels(gateway) == {"old": LabelCounts(right=1)}

        # The gateway that answered is gone; the next step has begun.
        generation = step("new/2")
        with run_gateway(cluster.admin, tmp_path, namespace, name="gateway-b", **on) as gateway:
            await soon("it follows", lambda: gateway.follows(namespace) == generation)
            async with AsyncTaskClient(gateway.address) as client:
                told = [
                    await client.report_label(ids[number], label)
                    for number, label in ((1, "low"), (2, "high"), (2, "high"), (3, "high"))
                ]
                assert told == [True, True, False, True]
                assert labels(gateway) == {"old": LabelCounts(right=1, wrong=2)}
                samples = {each["answer"]: value for each, value in gateway.samples("labels_total")}
                assert samples == {"right": 1.0, "wrong": 2.0}

                generation = step("newer/1")
                await soon("another rollout", lambda: gateway.follows(namespace) == generation)
                assert labels(gateway) == {}
                assert not await client.report_label(ids[4], "low")

        with run_gateway(cluster.admin, tmp_path, namespace, name="gateway-c") as gateway:
            async with AsyncTaskClient(gateway.address) as client:
                assert (await client.predict(full, text="x")).request_id == ""
                with pytest.raises(FailedPrecondition, match=r"gateway\.labels\.enabled"):
                    await client.report_label(ids[4], "low")


def test_a_gateway_with_a_key_that_is_too_short_ends_and_says_so(cluster: ClusterClient, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short")
    key = {"MULTITASK_LABEL_KEY_FILE": str(tmp_path / "key")}
    with run_gateway(cluster.admin, tmp_path, "default", wait=False, **key) as gateway:
        assert gateway.process.wait(timeout=60) == 2
        (line,) = [line for line in gateway.log_text().splitlines() if line.startswith("error:")]
    assert "has 5 bytes; make one of at least 32" in line
