"""The ScaledObject on the page about scaling names what there is: the scale subresource of a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from devcluster import objects
from support.cluster import resources
from support.pages import example

PAGE = Path(__file__).parents[3] / "docs/how-to/autoscale.md"


@pytest.fixture
def scaled_object() -> dict[str, Any]:
    return example(PAGE, "ScaledObject")


def test_an_autoscaler_reads_and_writes_the_replicas_of_a_model(
    rest: httpx.Client, namespace: str, scaled_object: dict[str, Any]
) -> None:
    target = scaled_object["spec"]["scaleTargetRef"]
    path = f"/apis/{target['apiVersion']}/namespaces/{namespace}/{target['kind'].lower()}s"
    objects.post(rest, path, resources.model(target["name"]))
    scale = objects.get(rest, f"{path}/{target['name']}/scale")
    assert scale["kind"] == "Scale"
    scale["spec"] = {"replicas": scaled_object["spec"]["maxReplicaCount"]}
    answer = rest.put(f"{path}/{target['name']}/scale", json=scale)
    assert answer.is_success, answer.text
    assert objects.get(rest, f"{path}/{target['name']}")["spec"]["serving"]["replicas"] == 8


def test_its_query_is_about_the_model_that_it_scales(scaled_object: dict[str, Any]) -> None:
    (trigger,) = scaled_object["spec"]["triggers"]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', trigger["metadata"]["query"]))
    metadata = scaled_object["metadata"]
    assert labels == {"namespace": metadata["namespace"], "model": scaled_object["spec"]["scaleTargetRef"]["name"]}
    # AverageValue: the sum is divided by the number of servers, and compared with the threshold.
    assert trigger["metricType"] == "AverageValue"
    assert float(trigger["metadata"]["threshold"]) > 0
