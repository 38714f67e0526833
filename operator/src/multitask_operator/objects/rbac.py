"""What a model's pods may do in the cluster: read and patch the ConfigMaps of this model's units, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from multitask_api.resource import MultiTaskModelSpec
from multitask_operator.objects.names import Owner, access_name, object_metadata

Map = dict[str, Any]

_OF = "access"
_RBAC = "rbac.authorization.k8s.io"


def service_account(owner: Owner, spec: MultiTaskModelSpec) -> Map | None:
    """The account of the model's pods; None where ``spec.serviceAccountName`` names one that is there already."""
    if spec.service_account_name is not None:
        return None
    return object_metadata(owner, "v1", "ServiceAccount", access_name(owner.name), of=_OF)


def role(owner: Owner, configmaps: Iterable[str]) -> Map:
    """The Role for the ConfigMaps of those names. Without any it has no rule: a rule without names would mean all."""
    names = sorted(set(configmaps))
    found = object_metadata(owner, f"{_RBAC}/v1", "Role", access_name(owner.name), of=_OF)
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": names, "verbs": ["get", "patch"]}
    found["rules"] = [rule] if names else []
    return found


def role_binding(owner: Owner, spec: MultiTaskModelSpec) -> Map:
    """Gives the Role to the account that the model's pods run as."""
    name = access_name(owner.name)
    found = object_metadata(owner, f"{_RBAC}/v1", "RoleBinding", name, of=_OF)
    found["roleRef"] = {"apiGroup": _RBAC, "kind": "Role", "name": name}
    found["subjects"] = [
        {"kind": "ServiceAccount", "name": spec.service_account_name or name, "namespace": owner.namespace}
    ]
    return found
