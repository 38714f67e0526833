"""The dashboard: it is off until it is wanted, and shows metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from support.rendered_chart import OPERATOR, rendered

ROOT = Path(__file__).parents[3]
METRIC = re.compile(r"\bmultitask_(?:gateway_|operator_|models|jobs)\w*")
#: What Prometheus' client adds to the names in the source.
ADDED = re.compile(r"(_total|_bucket)$")


def test_it_is_made_when_it_is_wanted() -> None:
    assert ("ConfigMap", "operators", f"{OPERATOR}-dashboard") not in rendered()
    options = ("metrics.grafanaDashboard.enabled=true", "metrics.grafanaDashboard.annotations.folder=ML")
    item = rendered("--set", ",".join(options))["ConfigMap", "operators", f"{OPERATOR}-dashboard"]
    assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert item["metadata"]["annotations"] == {"folder": "ML"}
    dashboard = json.loads(item["data"]["multitask.json"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
    assert len(places) == len(dashboard["panels"]) == len({panel["id"] for panel in dashboard["panels"]})


def test_every_metric_in_it_and_on_the_pages_is_one_that_is_exported() -> None:
    dashboard = json.loads((ROOT / "helm/multitask-operator/files/dashboards/multitask.json").read_text("utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [each["query"] for each in dashboard["templating"]["list"]]
    shown = {ADDED.sub("", name) for text in expressions for name in METRIC.findall(text)}
    for page in ("docs/how-to/monitor.md", "docs/how-to/autoscale.md", "docs/how-to/gateway.md"):
        shown |= {ADDED.sub("", name) for name in METRIC.findall((ROOT / page).read_text("utf-8"))}
    assert len(shown) > 10
    assert shown - exported() == set()


def exported() -> set[str]:
    """The names in the sources of operator and gateway."""
    operator = (ROOT / "operator/src/multitask_operator/metrics.py").read_text("utf-8")
    gateway = (ROOT / "serving/src/multitask_serving/gateway/cluster/metrics.py").read_text("utf-8")
    names = {f"multitask_gateway{name}" for name in re.findall(r'f"\{PREFIX\}(_\w+)"', gateway)}
    names |= {f"multitask_gateway_{name}" for name in re.findall(r'\(\s*"(retries\w*)",', gateway)}
    return {ADDED.sub("", name) for name in names | set(METRIC.findall(operator))}
