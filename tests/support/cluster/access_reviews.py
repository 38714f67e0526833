"""What a user may do in a cluster, by the API server's own access reviews: ``kubectl auth can-i``, or REST for many."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

from devcluster import objects
from devcluster.cluster_client import ClusterClient

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
#: The columns of ``can-i --list``: resource, addresses that are no resource, names, verbs.
_LINE = re.compile(r"^(\S*)\s+\[.*?\]\s+\[(.*?)\]\s+\[(.*?)\]\s*$")


@dataclass(frozen=True)
class Subject:
    """A user or service account in one namespace of a cluster."""

    client: ClusterClient
    rest: httpx.Client
    user: str
    namespace: str

    def may(self, *rows: str) -> list[str]:
        """Those of ``rows`` that are allowed; a row is ``VERB RESOURCE[.GROUP][/SUBRESOURCE][:NAME]``."""
        return [row for row in rows if self._allowed(row)]

    def can_i(self, verb: str, *what: str) -> bool:
        """``kubectl auth can-i``."""
        asked = ["auth", "can-i", verb, *what, "--as", self.user, "--namespace", self.namespace, "--quiet"]
        return self.client.kubectl(*asked, check=False).exit_code == 0

    def everything(self) -> dict[tuple[str, str], set[str]]:
        """(resource, name or "") → verbs, of all that ``kubectl auth can-i --list`` shows for the namespace."""
        asked = ("auth", "can-i", "--list", "--no-headers", "--as", self.user, "--namespace", self.namespace)
        rules: dict[tuple[str, str], set[str]] = {}
        for line in self.client.kubectl(*asked).stdout.splitlines():
            match = _LINE.match(line)
            assert match, line
            for name in match[2].split() or [""]:
                if match[1]:
                    rules.setdefault((match[1], name), set()).update(match[3].split())
        return rules

    def _allowed(self, row: str) -> bool:
        verb, what = row.split(" ")
        what, _, name = what.partition(":")
        what, _, part = what.partition("/")
        resource, _, group = what.partition(".")
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource}
        attributes = asked | {"subresource": part, "name": name}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self.rest.post(_REVIEWS, json=review, headers={"Impersonate-User": self.user})
        assert answer.is_success, answer.text
        return bool(answer.json()["status"]["allowed"])


def account(namespace: str, name: str) -> str:
    """The user name of a service account."""
    return f"system:serviceaccount:{namespace}:{name}"


def bind(rest: httpx.Client, namespace: str, role: str, user: str) -> None:
    """Give a user a ClusterRole in one namespace."""
    rbac = "rbac.authorization.k8s.io"
    body = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
    }
    objects.post(rest, f"/apis/{rbac}/v1/namespaces/{namespace}/rolebindings", body)
