"""What a model's pods may do in the cluster: each kind of work has an account of its own."""

from __future__ import annotations

import pytest

from multitask_api.cluster import CLEAN_UP, GC, RESOLVE
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_operator.objects.names import STAGES
from multitask_operator.objects.rbac import account_name, role, role_binding, service_account
from support.object_samples import OWNER, resource

NAMES = {
    STAGES: "desk-stages",
    "mixture": "desk-stages",
    RESOLVE: "desk-stages",
    CLEAN_UP: "desk-stages",
    VERIFY_REVISION: "desk-verify",
    GC: "desk-gc",
}


def test_pods_may_read_and_patch_the_configmaps_of_their_own_jobs_alone():
    assert role(OWNER, STAGES, ["desk-base-2", "desk-base-1", "desk-base-2"])["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["desk-base-1", "desk-base-2"],
            "verbs": ["get", "patch"],
        }
    ]


@pytest.mark.parametrize("kind", NAMES)
def test_without_a_job_there_is_no_rule_because_one_without_names_would_mean_all(kind):
    assert role(OWNER, kind, [])["rules"] == []


@pytest.mark.parametrize("kind", NAMES)
def test_the_account_of_a_kind_of_work_gets_its_role(kind):
    spec = resource().spec
    name = account_name(OWNER, spec, kind)
    account, binding = service_account(OWNER, spec, kind), role_binding(OWNER, kind, [name])
    assert account is not None
    for each in (account, binding, role(OWNER, kind, [])):
        assert each["metadata"]["name"] == NAMES[kind]
        assert each["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAMES[kind]}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAMES[kind], "namespace": "team-a"}]


@pytest.mark.parametrize("kind", NAMES)
def test_an_account_that_the_spec_names_is_that_of_all_and_none_is_made(kind):
    spec = resource(serviceAccountName="reader").spec
    assert service_account(OWNER, spec, kind) is None
    assert account_name(OWNER, spec, kind) == "reader"
