"""Who may do what, asked of the API server: the operator and gateways by the chart's rules, a model's pods, and users.

A row is ``VERB RESOURCE[.GROUP][/SUBRESOURCE][:NAME]``, about one namespace unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from devcluster import chart, objects
from devcluster.cluster_client import ClusterClient, Object
from devcluster.processes import until
from multitask_api.cluster import CLEAN_UP, GC, MODEL_LABEL
from multitask_api.serving_io.names import GATEWAY_AUDIENCE as AUDIENCE
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_operator.cluster.apply import Applied, apply
from multitask_operator.controller import Controller, NamespacedName
from multitask_operator.objects.names import Owner
from multitask_operator.reconciler import reconcile
from multitask_operator.reconciler.children import job_access
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_reader import read_model
from multitask_operator.settings import Settings
from multitask_serving.gateway.access.reviews import TokenReviews, reviewed_account, token_review
from support.cluster import resources
from support.cluster.access_reviews import Subject, account, bind

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
READ = ("get", "list", "watch")
MTM, ROUTES, RBAC = "multitaskmodels.multitask.dev", "taskroutes.multitask.dev", "rbac.authorization.k8s.io"
DESK, OTHER = "desk", "other"


def rows(verbs: tuple[str, ...], *resources: str) -> list[str]:
    return [f"{verb} {resource}" for resource in resources for verb in verbs]


#: In every namespace that it serves; of Namespaces it may get that one.
OPERATOR_MAY = [
    *rows(READ, MTM),
    f"patch {MTM}",  # its finalizer
    f"patch {MTM}/status",
    *rows(("get", "list", "watch", "create", "delete"), "jobs.batch"),
    *rows(("get", "list", "watch", "create", "patch", "delete"), "configmaps"),
    *rows(("list", "watch"), "pods"),
    *rows(
        ("get", "list", "watch", "create", "patch", "delete"),
        "services",
        "deployments.apps",
        "networkpolicies.networking.k8s.io",
        "poddisruptionbudgets.policy",
        ROUTES,
    ),
    f"patch {ROUTES}/status",
    *rows(("list", "watch"), "endpointslices.discovery.k8s.io"),
    *rows(("get", "list", "watch", "create", "patch"), "serviceaccounts", f"roles.{RBAC}", f"rolebindings.{RBAC}"),
    *rows(READ, "persistentvolumeclaims"),
    *rows(("list", "watch"), "events"),
    "create events.events.k8s.io",
]
OPERATOR_MAY_NOT = [
    *rows(VERBS, "secrets"),
    *rows(("create", "update", "delete", "deletecollection"), MTM),
    *rows(VERBS, "leases.coordination.k8s.io", "endpoints", "nodes", "persistentvolumes"),
    *rows(("update", "deletecollection"), ROUTES, "deployments.apps", "services"),
    *rows(("get", "patch", "update"), "deployments.apps/scale", "deployments.apps/status"),
    *rows(("get", "create", "update", "patch", "delete"), "endpointslices.discovery.k8s.io"),
    *rows(("update", "patch", "deletecollection"), "jobs.batch"),
    *rows(("update", "deletecollection"), "configmaps"),
    *rows(("get", "create", "update", "patch", "delete", "deletecollection"), "pods"),
    *rows(("get", "create"), "pods/exec", "pods/attach", "pods/portforward", "pods/log", "pods/proxy"),
    *rows(("patch", "update"), "pods/ephemeralcontainers", "pods/status", "jobs.batch/status"),
    *rows(("update", "delete", "impersonate"), "serviceaccounts"),
    "create serviceaccounts/token",
    *rows(("update", "delete", "escalate", "bind"), f"roles.{RBAC}", f"rolebindings.{RBAC}"),
    *rows(("create", "patch", "delete"), "persistentvolumeclaims", "namespaces"),
    *rows(("list", "watch"), "namespaces", "events.events.k8s.io"),
    *rows(("get", "patch", "delete"), "events", "events.events.k8s.io"),
]
#: In every namespace that it serves; it may also create TokenReviews, which are in none.
GATEWAY_MAY = [
    *rows(READ, ROUTES, "endpointslices.discovery.k8s.io"),
    f"patch {ROUTES}/status",  # its own entry
]
GATEWAY_MAY_NOT = [
    *rows(VERBS, "secrets", "configmaps", "pods", "services", "jobs.batch", "deployments.apps", MTM, f"{MTM}/status"),
    *rows(("create", "update", "patch", "delete", "deletecollection"), ROUTES, "endpointslices.discovery.k8s.io"),
    *rows(("update",), f"{ROUTES}/status"),
    *rows(("get", "create"), "pods/exec", "pods/log", "pods/proxy"),
    *rows((*VERBS, "escalate", "bind"), f"roles.{RBAC}", f"rolebindings.{RBAC}"),
    *rows(("create", "impersonate"), "serviceaccounts", "serviceaccounts/token"),
    *rows(("get", "list", "watch"), "namespaces", "events", "nodes", "endpoints"),
]
TOKEN_REVIEWS = "create tokenreviews.authentication.k8s.io"
#: Of the cluster: nothing here lies in a namespace.
NOBODY_MAY = [
    *rows((*VERBS, "escalate", "bind"), f"clusterroles.{RBAC}", f"clusterrolebindings.{RBAC}"),
    *rows(VERBS, "customresourcedefinitions.apiextensions.k8s.io"),
    *rows(("create", "patch"), "mutatingwebhookconfigurations.admissionregistration.k8s.io"),
    *rows(("impersonate",), "users", "groups", "userextras.authentication.k8s.io/scopes"),
    *rows(("create", "approve"), "certificatesigningrequests.certificates.k8s.io"),
    "create nodes/proxy",
]
STAGE_MAY = ["get configmaps:{own}", "patch configmaps:{own}"]
STAGE_MAY_NOT = [
    *rows(VERBS, "configmaps", "configmaps:{other}", "configmaps:{snapshot}", "secrets", "secrets:hub-token"),
    *(f"{verb} configmaps:{{own}}" for verb in VERBS if verb not in ("get", "patch")),
    *rows(VERBS, "pods", "jobs.batch", MTM, f"{MTM}/status", ROUTES, "services", "serviceaccounts"),
    *rows(("get", "create"), "pods/exec", "pods/log", "pods/attach"),
    "create serviceaccounts/token",
    *rows((*VERBS, "escalate", "bind"), f"roles.{RBAC}", f"rolebindings.{RBAC}"),
    *rows(("get", "list"), "persistentvolumeclaims", "namespaces", "events"),
]
#: ``mtm status``, ``explain``, ``logs``, ``plan`` and ``report`` ask for no more.
MTM_MAY = [
    *rows(("get", "list"), MTM, ROUTES, "jobs.batch", "pods", "configmaps", "deployments.apps"),
    "list endpointslices.discovery.k8s.io",
    *rows(("get",), "pods/log", "persistentvolumeclaims"),
    "list events",
]
WRITE = tuple(verb for verb in VERBS if verb not in READ)
# role, what a user who has it may do with this product's resources, what not
USERS = [
    ("view", rows(READ, MTM, ROUTES), rows(WRITE, MTM, ROUTES, f"{MTM}/status") + rows(VERBS, "secrets")),
    (
        "edit",
        rows(READ, MTM, ROUTES)
        + rows(("create", "update", "patch", "delete", "deletecollection"), MTM)
        + rows(("get", "update", "patch"), f"{MTM}/scale"),
        rows(WRITE, ROUTES, f"{MTM}/status", f"{ROUTES}/status"),
    ),
    (
        "admin",
        rows(READ, MTM, ROUTES)
        + rows(("create", "update", "patch", "delete", "deletecollection"), MTM)
        + rows(("get", "update", "patch"), f"{MTM}/scale"),
        rows(WRITE, ROUTES, f"{MTM}/status", f"{ROUTES}/status"),
    ),
    ("mtm", MTM_MAY, rows(WRITE, MTM, ROUTES, "jobs.batch", "pods", "configmaps") + rows(VERBS, "secrets", "services")),
]


@dataclasses.dataclass(frozen=True)
class Installation:
    """A release, ``served`` by it a namespace with two models, and ``elsewhere`` one that it need not serve."""

    release: str
    own: str
    served: str
    elsewhere: str
    account: str


@pytest.fixture(scope="module", params=["the whole cluster", "its namespaces"])
def installed(request: pytest.FixtureRequest, cluster: ClusterClient, rest: httpx.Client) -> Iterator[Installation]:
    """The chart's access, for every namespace and for some."""
    if chart.helm() is None:
        pytest.skip("needs helm: `make kubernetes` builds it")
    mark = os.urandom(3).hex()
    names = [f"access-{each}-{mark}" for each in ("own", "served", "elsewhere")]
    for name in names:
        objects.namespace(rest, name)
    own, served, elsewhere = names
    options = [] if request.param == "the whole cluster" else ["--set", f"namespaces={{{served}}}"]
    with chart.installed_rbac(cluster, *options, release=f"r-{mark}", namespace=own) as name:
        yield Installation(f"r-{mark}", own, served, elsewhere, name)
    for name in names:
        rest.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def operator(cluster: ClusterClient, rest: httpx.Client, installed: Installation) -> Subject:
    """The operator where it serves."""
    return Subject(cluster, rest, account(installed.own, installed.account), installed.served)


def is_for_all(installed: Installation, rest: httpx.Client) -> bool:
    return rest.get(f"/apis/{RBAC}/v1/clusterroles/{installed.account}").is_success


def test_the_operator_may_do_its_work_and_nothing_else(operator: Subject) -> None:
    assert operator.may(*OPERATOR_MAY) == OPERATOR_MAY
    assert operator.may(f"get namespaces:{operator.namespace}"), "a Role gives this for its own namespace"
    assert operator.may(*OPERATOR_MAY_NOT, *NOBODY_MAY) == []


def test_kubectl_says_the_same_of_the_operator(operator: Subject) -> None:
    """What every user may do comes off: it is the same for an account that no role names."""
    everybody = dataclasses.replace(operator, user=account(operator.namespace, "nobody")).everything()
    rights = {f"{verb} {what}" for (what, _), verbs in operator.everything().items() for verb in verbs}
    rights -= {f"{verb} {what}" for (what, _), verbs in everybody.items() for verb in verbs}
    assert rights == {*OPERATOR_MAY, "get namespaces"}
    assert operator.can_i("create", "jobs.batch")
    assert not operator.can_i("get", "secrets")
    assert not operator.can_i("create", "pods", "--subresource", "exec")


def test_it_acts_where_it_is_installed_for(operator: Subject, installed: Installation, rest: httpx.Client) -> None:
    expected = OPERATOR_MAY if is_for_all(installed, rest) else []
    gateways = ["list pods", "watch pods"]  # beside it, to ask them what they have counted
    for namespace in (installed.elsewhere, installed.own, ""):  # "": in all at once
        elsewhere = dataclasses.replace(operator, namespace=namespace)
        assert elsewhere.may(*OPERATOR_MAY) == (expected or (gateways if namespace == installed.own else []))
        assert elsewhere.may(*OPERATOR_MAY_NOT) == []


@pytest.fixture
def gateway(cluster: ClusterClient, rest: httpx.Client, installed: Installation) -> Subject:
    """The gateway where it serves."""
    return Subject(cluster, rest, account(installed.own, f"{installed.release}-gateway"), installed.served)


def test_a_gateway_may_follow_routes_and_nothing_else(
    gateway: Subject, installed: Installation, rest: httpx.Client
) -> None:
    until("the Role is known", lambda: gateway.may(*GATEWAY_MAY) == GATEWAY_MAY, 30)
    assert gateway.may(*GATEWAY_MAY_NOT, *NOBODY_MAY) == []
    everybody = dataclasses.replace(gateway, user=account(gateway.namespace, "nobody")).everything()
    rights = {f"{verb} {what}" for (what, _), verbs in gateway.everything().items() for verb in verbs}
    rights -= {f"{verb} {what}" for (what, _), verbs in everybody.items() for verb in verbs}
    assert rights == {*GATEWAY_MAY, TOKEN_REVIEWS}
    elsewhere = dataclasses.replace(gateway, namespace=installed.elsewhere)
    assert elsewhere.may(*GATEWAY_MAY) == (GATEWAY_MAY if is_for_all(installed, rest) else [])


def test_a_token_for_the_gateway_is_reviewed_and_one_for_the_api_server_is_not(
    cluster: ClusterClient, installed: Installation, rest: httpx.Client
) -> None:
    """By the gateway's own account: whose token it is, as the gateway reads the answer."""
    path = f"/api/v1/namespaces/{installed.served}/serviceaccounts/default/token"
    with cluster.rest(cluster.service_account(installed.own, f"{installed.release}-gateway")) as client:

        async def review(body: Object) -> Object:
            answer = client.post("/apis/authentication.k8s.io/v1/tokenreviews", json=body)
            assert answer.status_code == 201, answer.text
            result: Object = answer.json()
            return result

        for audiences, expected in (([AUDIENCE], f"{installed.served}/default"), (None, None)):
            until("the account is there", lambda: rest.get(path.removesuffix("/token")).is_success, 30)
            made = rest.post(path, json={"spec": {"audiences": audiences}})
            token = made.raise_for_status().json()["status"]["token"]
            assert asyncio.run(TokenReviews(review).service_account(token)) == expected
            # The API server says the same, should a token be a lie about itself.
            assert reviewed_account(asyncio.run(review(token_review(token)))) == expected


# what it tries to give to somebody, by whom that is refused
GIFTS = [
    ("a right that it has not itself", {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}, 403),
    ("a verb that it has not itself", {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["update"]}, 403),
    ("everything", {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, 403),
    ("what it has", {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]}, 201),
]


@pytest.mark.parametrize(("sentence", "rule", "status"), GIFTS, ids=[row[0] for row in GIFTS])
def test_it_gives_nobody_more_than_it_has(
    cluster: ClusterClient, installed: Installation, sentence: str, rule: Object, status: int
) -> None:
    body = {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": "gift"}, "rules": [rule]}
    path = f"/apis/{RBAC}/v1/namespaces/{installed.served}/roles"
    with cluster.rest(cluster.service_account(installed.own, installed.account)) as client:
        answer = client.post(path, json=body, params={"dryRun": "All"})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("role", ["admin", "edit", "cluster-admin"])
def test_it_binds_nobody_to_a_role_that_gives_more(cluster: ClusterClient, installed: Installation, role: str) -> None:
    with cluster.rest(cluster.service_account(installed.own, installed.account)) as client:
        path = f"/apis/{RBAC}/v1/namespaces/{installed.served}/rolebindings"
        body = {
            "metadata": {"name": "gift"},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": installed.account, "namespace": installed.own}],
        }
        answer = client.post(path, json=body, params={"dryRun": "All"})
    assert (answer.status_code, "attempting to grant RBAC permissions not currently held" in answer.text) == (403, True)


# -- the pods of a model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def units(cluster: ClusterClient, rest: httpx.Client, installed: Installation) -> dict[str, str]:
    """own, other, snapshot → ConfigMap names, where the operator has begun with two models."""
    namespace, names_by_key = installed.served, {}
    for claim in ("data", "models"):
        objects.claim(rest, namespace, claim)
    for key, name in (("own", DESK), ("other", OTHER)):
        objects.post(
            rest, f"/apis/multitask.dev/v1alpha1/namespaces/{namespace}/multitaskmodels", resources.model(name)
        )
        asyncio.run(begin(cluster.service_account(installed.own, installed.account), NamespacedName(namespace, name)))
        path = f"/api/v1/namespaces/{namespace}/configmaps?labelSelector={MODEL_LABEL}={name}"
        names = [item["metadata"]["name"] for item in objects.get(rest, path)["items"]]
        names_by_key[key], names_by_key["snapshot"] = sorted(names, key=lambda name: "-run-" in name)
    pods = Subject(cluster, rest, account(namespace, f"{DESK}-stages"), namespace)
    until("the Role is known", lambda: pods.may(f"get configmaps:{names_by_key['own']}"), 30)
    return names_by_key


async def begin(config: Path, key: NamespacedName) -> None:
    """What the operator does first for a model."""
    async with Client(await connect(config)) as client:
        await Controller(client, Settings(trainer_image="example.test/trainer:1"), reconcile).reconcile(key)


@pytest.fixture
def stages(cluster: ClusterClient, rest: httpx.Client, installed: Installation) -> Subject:
    """The account of one model's pods."""
    return Subject(cluster, rest, account(installed.served, f"{DESK}-stages"), installed.served)


def test_a_stage_pod_may_write_its_own_configmap_and_nothing_else(stages: Subject, units: dict[str, str]) -> None:
    allowed = [row.format(**units) for row in STAGE_MAY]
    assert stages.may(*allowed) == allowed
    assert stages.may(*(row.format(**units) for row in STAGE_MAY_NOT), *NOBODY_MAY) == []


def test_kubectl_says_the_same_of_a_stage_pod(stages: Subject, units: dict[str, str], installed: Installation) -> None:
    nobody = dataclasses.replace(stages, user=account(stages.namespace, "nobody")).everything()
    rights = {key: verbs for key, verbs in stages.everything().items() if key not in nobody}
    assert rights == {("configmaps", units["own"]): {"get", "patch"}}
    assert stages.can_i("patch", f"configmaps/{units['own']}")
    assert not stages.can_i("get", f"configmaps/{units['other']}")
    assert not stages.can_i("list", "configmaps")
    assert not stages.can_i("get", "secrets")


#: Account of a pod → the ConfigMap that it reports into; a server's pod has no account of its own, and no token.
JOBS = {
    f"{DESK}-stages": "the ConfigMap of a stage",
    f"{DESK}-verify": "desk-verify-0123abcd",
    f"{DESK}-gc": "desk-gc-0123abcd",
    f"{OTHER}-stages": "other-clean-up-0123abcd",
    "default": "",
}

REPORTERS = (f"{DESK}-verify", f"{DESK}-gc")


@pytest.fixture(scope="module")
def reports(
    cluster: ClusterClient, rest: httpx.Client, installed: Installation, units: dict[str, str]
) -> dict[str, str]:
    """`JOBS` in the cluster: one model verifies a revision and removes what is not used, the other one is deleted."""
    path = f"/apis/multitask.dev/v1alpha1/namespaces/{installed.served}/multitaskmodels"
    reports = JOBS | {f"{DESK}-stages": units["own"]}

    async def give(model: Object, kind: str, configmap: str) -> None:
        state, owner = ClusterState(installed.served, model["metadata"]["name"], model), Owner.of(model)
        actions = tuple(job_access(owner, read_model(state).spec, state, kind, [configmap]))
        async with Client(await connect(cluster.service_account(installed.own, installed.account))) as client:
            assert await apply(client, state, actions) == Applied()

    for name, kind, account_name in (
        (DESK, VERIFY_REVISION, f"{DESK}-verify"),
        (DESK, GC, f"{DESK}-gc"),
        (OTHER, CLEAN_UP, f"{OTHER}-stages"),
    ):
        asyncio.run(give(objects.get(rest, f"{path}/{name}"), kind, reports[account_name]))
        pods = Subject(cluster, rest, account(installed.served, account_name), installed.served)
        until("the Role is known", lambda pods=pods, own=reports[account_name]: pods.may(f"get configmaps:{own}"), 30)
    return reports


@pytest.mark.parametrize("name", JOBS)
def test_the_pod_of_a_job_may_write_its_report_and_no_other(
    cluster: ClusterClient, rest: httpx.Client, installed: Installation, reports: dict[str, str], name: str
) -> None:
    pod = Subject(cluster, rest, account(installed.served, name), installed.served)
    own, others = reports[name], [each for each in reports.values() if each and each != reports[name]]
    expected = [f"get configmaps:{own}", f"patch configmaps:{own}"] if own else []
    assert pod.may(*(f"{verb} configmaps:{each}" for each in (own, *others) if each for verb in VERBS)) == expected
    names = {"own": own or "none", "other": others[0], "snapshot": others[1]}
    assert pod.may(*(row.format(**names) for row in STAGE_MAY_NOT), *NOBODY_MAY) == []
    nobody = dataclasses.replace(pod, user=account(pod.namespace, "nobody")).everything()
    rights = {key: verbs for key, verbs in pod.everything().items() if key not in nobody}
    assert rights == ({("configmaps", own): {"get", "patch"}} if own else {})


def test_a_report_of_a_verification_is_accepted_from_its_own_pod_alone(
    cluster: ClusterClient, rest: httpx.Client, installed: Installation, reports: dict[str, str]
) -> None:
    path = f"/api/v1/namespaces/{installed.served}/configmaps"
    for name in REPORTERS:
        objects.post(rest, path, {"metadata": {"name": reports[name]}})
    merge = {"json": {"data": {"verified.json": "{}"}}, "headers": objects.MERGE}
    for name in JOBS:
        with cluster.rest(cluster.service_account(installed.served, name)) as client:
            codes = {
                own: client.patch(f"{path}/{own}", **merge).status_code for own in (reports[each] for each in REPORTERS)
            }
        assert codes == {reports[each]: 200 if each == name else 403 for each in REPORTERS}


def test_another_models_results_are_closed_to_a_stage_pod(
    cluster: ClusterClient, rest: httpx.Client, installed: Installation, units: dict[str, str]
) -> None:
    path = f"/api/v1/namespaces/{installed.served}/configmaps"
    merge = {"json": {"data": {"progress.json": "{}"}}, "headers": objects.MERGE}
    secret = {"metadata": {"name": "hub-token"}, "stringData": {"HF_TOKEN": "x"}}
    rest.post(f"/api/v1/namespaces/{installed.served}/secrets", json=secret)
    with cluster.rest(cluster.service_account(installed.served, f"{DESK}-stages")) as client:
        own, other = f"{path}/{units['own']}", f"{path}/{units['other']}"
        assert [client.get(own).status_code, client.patch(own, **merge).status_code] == [200, 200]
        assert [client.get(other).status_code, client.patch(other, **merge).status_code] == [403, 403]
        assert [client.get(path).status_code, client.delete(own).status_code] == [403, 403]
        secrets = f"/api/v1/namespaces/{installed.served}/secrets"
        assert [client.get(secrets).status_code, client.get(f"{secrets}/hub-token").status_code] == [403, 403]


# -- users -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "may", "may_not"), USERS, ids=[row[0] for row in USERS])
def test_users(
    cluster: ClusterClient,
    rest: httpx.Client,
    installed: Installation,
    role: str,
    may: list[str],
    may_not: list[str],
) -> None:
    user = f"{installed.release}-{role}"
    named = f"{installed.account}-mtm" if role == "mtm" else role
    bind(rest, installed.elsewhere, named, user)
    subject = Subject(cluster, rest, user, installed.elsewhere)
    # The rules of view, edit and admin are gathered by a controller, in its own time.
    until(f"{role} is allowed all of it", lambda: subject.may(*may) == may, 30)
    assert subject.may(*may_not, *NOBODY_MAY) == []
    assert subject.can_i("get", MTM)
    assert not subject.can_i("delete", ROUTES)
    if role == "mtm":
        nobody = dataclasses.replace(subject, user="nobody").everything()
        listed = {f"{verb} {what}" for (what, _), verbs in subject.everything().items() for verb in verbs}
        assert listed - {f"{verb} {what}" for (what, _), verbs in nobody.items() for verb in verbs} == set(may)
    assert dataclasses.replace(subject, namespace=installed.served).may(*may) == []
