"""What a model's pods may do in the cluster: read and patch the ConfigMaps of its own Jobs, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.types import JsonDict
from multitask_operator.objects.names import Owner, access_name, object_metadata

_OF = "access"
_RBAC = "rbac.authorization.k8s.io"


def service_account(owner: Owner, spec: MultiTaskModelSpec) -> JsonDict | None:
    """The account of the model's pods; None where ``spec.serviceAccountName`` names one that exists already."""
    if spec.service_account_name is not None:
        return None
    return object_metadata(owner, "v1", "ServiceAccount", access_name(owner.name), of=_OF)


def role(owner: Owner, configmaps: Iterable[str], name: str | None = None) -> JsonDict:
    """The Role for ConfigMaps of those names, by default the one of the stages. Without names it has no rules: a rule
    without names would mean all."""
    names = sorted(set(configmaps))
    role = object_metadata(owner, f"{_RBAC}/v1", "Role", name or access_name(owner.name), of=_OF)
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": names, "verbs": ["get", "patch"]}
    role["rules"] = [rule] if names else []
    return role


def role_binding(owner: Owner, spec: MultiTaskModelSpec, name: str | None = None) -> JsonDict:
    """Gives the Role of that name, by default the one of the stages, to the account that the model's pods run as."""
    account = access_name(owner.name)
    name = name or account
    binding = object_metadata(owner, f"{_RBAC}/v1", "RoleBinding", name, of=_OF)
    binding["roleRef"] = {"apiGroup": _RBAC, "kind": "Role", "name": name}
    binding["subjects"] = [
        {"kind": "ServiceAccount", "name": spec.service_account_name or account, "namespace": owner.namespace}
    ]
    return binding
