"""A permission to read that the operator lacks is seen in its readiness and in the resource, until it is granted."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from devcluster import chart, objects
from devcluster.cluster_client import ClusterClient, Object
from support.cluster import resources
from support.cluster.operator_process import run_operator

RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}"
MODELS = "/apis/multitask.dev/v1alpha1/namespaces/{}/multitaskmodels"

#: verb, resource, as the sentence names it
MISSING = [
    ("list", "services", "services"),
    ("watch", "serviceaccounts", "serviceaccounts"),
    ("list", "jobs", "jobs.batch"),
    ("watch", "pods", "pods"),
    ("list", "configmaps", "configmaps"),
    ("list", "persistentvolumeclaims", "persistentvolumeclaims"),
    ("watch", "roles", "roles.rbac.authorization.k8s.io"),
    ("list", "rolebindings", "rolebindings.rbac.authorization.k8s.io"),
    ("watch", "events", "events"),
    ("get", "namespaces", "namespaces"),
]
USER = "short-of-rights"


def rules(without: tuple[str, str] | None = None) -> list[Object]:
    """Those of the chart, but for a verb on a resource."""
    documents = chart.rendered("--set", "namespaces={any},serving.enabled=false,gateway.enabled=false")
    (role,) = (item for item in documents if item["kind"] == "Role")
    split = [{**rule, "resources": [each]} for rule in role["rules"] for each in rule["resources"]]
    if without is not None:
        verb, resource = without
        for rule in split:
            if rule["resources"] == [resource] and rule["apiGroups"] != ["events.k8s.io"]:
                rule["verbs"] = [each for each in rule["verbs"] if each != verb]
    return [rule for rule in split if rule["verbs"]]


def grant(rest: httpx.Client, namespace: str, granted: list[Object]) -> None:
    objects.post(rest, f"{RBAC.format(namespace)}/roles", {"metadata": {"name": "operator"}, "rules": granted})
    group = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "operator"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": USER}],
    }
    objects.post(rest, f"{RBAC.format(namespace)}/rolebindings", binding)


def ready_condition(rest: httpx.Client, namespace: str) -> tuple[str, str]:
    status = objects.get(rest, f"{MODELS.format(namespace)}/desk").get("status", {})
    return next(
        ((item["reason"], item["message"]) for item in status.get("conditions", ()) if item["type"] == "Ready"),
        ("", ""),
    )


def test_a_missing_permission_is_named_until_it_is_granted(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    """Each namespace lacks another permission."""
    if chart.helm() is None:
        pytest.skip("needs helm: `make kubernetes` builds it")
    names = {f"{namespace[-6:]}-{verb}-{resource}": (verb, resource, full) for verb, resource, full in MISSING}
    for name, (verb, resource, _) in names.items():
        objects.namespace(rest, name)
        for claim in ("data", "models"):
            objects.claim(rest, name, claim)
        grant(rest, name, rules(without=(verb, resource)))
        objects.post(rest, MODELS.format(name), resources.model())
    sentences = {
        name: f'the operator cannot {verb} {full} {"" if full == "namespaces" else "in namespace "}"{name}"'
        for name, (verb, _, full) in names.items()
    }
    with run_operator(cluster.user(USER), tmp_path, *names) as running:
        running.until("it is up", lambda: "health on port" in running.log_text())

        def named() -> list[str]:
            seen = {name: ready_condition(rest, name) for name in names}
            return [
                name
                for name, (reason, message) in seen.items()
                if reason == "ReadRefused" and message.startswith(sentences[name])
            ]

        running.until("every model says what is missing", lambda: named() == list(names))
        for name in names:
            told = {item["reason"] for item in objects.get(rest, f"/api/v1/namespaces/{name}/events")["items"]}
            assert "ClaimMissing" not in told, "what may not be seen is not called missing"
        answer = running.readyz()
        assert answer.status_code == 503
        assert [sentence for sentence in sentences.values() if sentence not in answer.json()["fault"]] == []
        for name in names:
            change = {"rules": rules()}
            path = f"{RBAC.format(name)}/roles/operator"
            rest.patch(path, json=change, headers=objects.MERGE).raise_for_status()
        running.until("it is ready", lambda: running.readyz().status_code == 200)
        running.until(
            "every model goes on", lambda: all(ready_condition(rest, name)[0] == "NotTrained" for name in names)
        )
    for name in names:
        rest.delete(f"/api/v1/namespaces/{name}")
