"""The kinds of objects that our programs read and write, as URLs and RBAC name them."""

from __future__ import annotations

from collections.abc import Mapping

RBAC = "rbac.authorization.k8s.io/v1"

#: (apiVersion, kind) -> (plural name in URLs, whether it is namespaced). They are few and known: discovery would cost
#: requests and keep a cache file.
KINDS: Mapping[tuple[str, str], tuple[str, bool]] = {
    ("v1", "ConfigMap"): ("configmaps", True),
    ("v1", "Event"): ("events", True),
    ("v1", "Namespace"): ("namespaces", False),
    ("v1", "PersistentVolumeClaim"): ("persistentvolumeclaims", True),
    ("v1", "Pod"): ("pods", True),
    ("v1", "Service"): ("services", True),
    ("v1", "ServiceAccount"): ("serviceaccounts", True),
    ("apps/v1", "Deployment"): ("deployments", True),
    ("authentication.k8s.io/v1", "TokenReview"): ("tokenreviews", False),
    ("batch/v1", "Job"): ("jobs", True),
    ("discovery.k8s.io/v1", "EndpointSlice"): ("endpointslices", True),
    ("events.k8s.io/v1", "Event"): ("events", True),
    ("networking.k8s.io/v1", "NetworkPolicy"): ("networkpolicies", True),
    ("policy/v1", "PodDisruptionBudget"): ("poddisruptionbudgets", True),
    (RBAC, "Role"): ("roles", True),
    (RBAC, "RoleBinding"): ("rolebindings", True),
    ("scheduling.x-k8s.io/v1alpha1", "PodGroup"): ("podgroups", True),
    ("scheduling.volcano.sh/v1beta1", "PodGroup"): ("podgroups", True),
    ("multitask.dev/v1alpha1", "MultiTaskModel"): ("multitaskmodels", True),
    ("multitask.dev/v1alpha1", "TaskRoute"): ("taskroutes", True),
}


def rbac_resource(api_version: str, kind: str) -> str:
    """As RBAC names it: ``jobs.batch``."""
    plural, _ = KINDS[api_version, kind]
    group, _, _ = api_version.rpartition("/")
    return f"{plural}.{group}" if group else plural
