"""What a model's pods may do in the cluster: read and patch the ConfigMaps of their own Jobs, and nothing else.

Each kind of work has its own account: what pods of training can write is nothing that a rollout is decided on.
"""

from __future__ import annotations

from collections.abc import Iterable

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.types import JsonDict
from multitask_operator.objects.names import Owner, access_name, object_metadata

_OF = "access"
_RBAC = "rbac.authorization.k8s.io"


def account_name(owner: Owner, spec: MultiTaskModelSpec, kind: str) -> str:
    """The account of the pods of a Job of that kind: one for all where ``spec.serviceAccountName`` names it, because
    storage may know no other."""
    return spec.service_account_name or access_name(owner.name, kind)


def service_account(owner: Owner, spec: MultiTaskModelSpec, kind: str) -> JsonDict | None:
    """The account; None where ``spec.serviceAccountName`` names one that exists already."""
    if spec.service_account_name is not None:
        return None
    return object_metadata(owner, "v1", "ServiceAccount", access_name(owner.name, kind), of=_OF)


def role(owner: Owner, kind: str, configmaps: Iterable[str]) -> JsonDict:
    """The Role for ConfigMaps of those names. Without names it has no rules: a rule without names would mean all."""
    names = sorted(set(configmaps))
    role = object_metadata(owner, f"{_RBAC}/v1", "Role", access_name(owner.name, kind), of=_OF)
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": names, "verbs": ["get", "patch"]}
    role["rules"] = [rule] if names else []
    return role


def role_binding(owner: Owner, kind: str, accounts: Iterable[str]) -> JsonDict:
    """Gives the Role to the accounts."""
    name = access_name(owner.name, kind)
    binding = object_metadata(owner, f"{_RBAC}/v1", "RoleBinding", name, of=_OF)
    binding["roleRef"] = {"apiGroup": _RBAC, "kind": "Role", "name": name}
    binding["subjects"] = [
        {"kind": "ServiceAccount", "name": account, "namespace": owner.namespace} for account in sorted(set(accounts))
    ]
    return binding
