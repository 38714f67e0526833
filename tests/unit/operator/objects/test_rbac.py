"""What a model's pods may do in the cluster."""

from __future__ import annotations

from multitask_operator.objects.rbac import role, role_binding, service_account
from support.object_samples import OWNER, resource


def test_pods_may_read_and_patch_the_configmaps_of_their_own_model_alone():
    assert role(OWNER, ["desk-base-2", "desk-base-1", "desk-base-2"])["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["desk-base-1", "desk-base-2"],
            "verbs": ["get", "patch"],
        }
    ]


def test_without_a_job_there_is_no_rule_because_one_without_names_would_mean_all():
    assert role(OWNER, [])["rules"] == []


def test_a_models_own_account_gets_the_role():
    spec = resource().spec
    account, binding = service_account(OWNER, spec), role_binding(OWNER, spec)
    assert account is not None
    for each in (account, binding, role(OWNER, [])):
        assert each["metadata"]["name"] == "desk-stages"
        assert each["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "desk-stages"}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "desk-stages", "namespace": "team-a"}]


def test_an_account_that_the_spec_names_gets_it_and_none_is_made():
    spec = resource(serviceAccountName="reader").spec
    assert service_account(OWNER, spec) is None
    assert role_binding(OWNER, spec)["subjects"][0]["name"] == "reader"
