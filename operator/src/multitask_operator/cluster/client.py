"""The requests that the operator makes, on the asynchronous dynamic client: plain dicts in and out, a time limit on
each, and one exception tree."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic.client import DynamicClient
from kubernetes.aio.dynamic.resource import Resource

from multitask_api.types import JsonObject
from multitask_operator.cluster.errors import Request, Unavailable, error_for

FIELD_MANAGER = "multitask-operator"

#: Of one request, from the wait for a free connection to the last byte of the answer.
TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)

#: Objects of one page of a list.
PAGE = 500

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
    ("batch/v1", "Job"): ("jobs", True),
    ("events.k8s.io/v1", "Event"): ("events", True),
    ("rbac.authorization.k8s.io/v1", "Role"): ("roles", True),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): ("rolebindings", True),
    ("scheduling.x-k8s.io/v1alpha1", "PodGroup"): ("podgroups", True),
    ("scheduling.volcano.sh/v1beta1", "PodGroup"): ("podgroups", True),
    ("multitask.dev/v1alpha1", "MultiTaskModel"): ("multitaskmodels", True),
}


def nothing() -> None:
    """The default of ``after_write``."""


class Client:
    """One connection pool to one API server; close it, or use it as an asynchronous context.

    Every method raises the errors of `multitask_operator.cluster.errors`. ``after_write`` is called after every request
    that changed something and before its answer is used.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        after_write: Callable[[], None] = nothing,
        connections: int = 64,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
    ) -> None:
        configuration.connection_pool_maxsize = connections
        # a kubeconfig's proxy is used; those in the environment are not meant for a cluster's own address
        configuration.client_session_kwargs = {"trust_env": False}
        self._api = ApiClient(configuration)
        self._api.user_agent = FIELD_MANAGER
        self._dynamic = DynamicClient(self._api)
        self._after_write = after_write
        self._call = {"_request_timeout": timeout, "serializer": _plain}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections."""
        await self._api.close()

    async def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> JsonObject:
        """The object; NotFound if there is none."""
        resource = self._resource(api_version, kind)
        return await self._ask(
            Request("get", _rbac_resource(resource), namespace, name),
            self._dynamic.get(resource, name=name, namespace=namespace, **self._call),
        )

    async def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
    ) -> tuple[JsonObject, ...]:
        """All objects with ``labels`` and ``fields`` (selectors), in ``namespace`` or everywhere, sorted by namespace
        and name."""
        resource = self._resource(api_version, kind)
        request = Request("list", _rbac_resource(resource), namespace, None)
        items: list[JsonObject] = []
        following: str | None = None
        while True:
            page = await self._ask(
                request,
                self._dynamic.get(
                    resource,
                    namespace=namespace,
                    label_selector=labels,
                    field_selector=fields,
                    limit=PAGE,
                    _continue=following,
                    **self._call,
                ),
            )
            # items of a list do not say what they are
            items += [{"apiVersion": api_version, "kind": kind, **item} for item in page.get("items") or ()]
            following = page.get("metadata", {}).get("continue")
            if not following:
                break
        return tuple(sorted(items, key=lambda item: (item["metadata"].get("namespace", ""), item["metadata"]["name"])))

    async def probe(self, api_version: str, kind: str, namespace: str | None = None) -> None:
        """List at most one object of the kind: NotFound if the server does not know the kind, Forbidden without the
        permission."""
        resource = self._resource(api_version, kind)
        await self._ask(
            Request("list", _rbac_resource(resource), namespace, None),
            self._dynamic.get(resource, namespace=namespace, limit=1, **self._call),
        )

    async def create(self, body: JsonObject, *, dry_run: bool = False) -> JsonObject:
        """Make the object; AlreadyExists if there is one of its name, RequestRejected for a field that it cannot have.

        ``dry_run``: the server checks everything and keeps nothing.
        """
        resource = self._resource(body["apiVersion"], body["kind"])
        metadata = body["metadata"]
        request = Request("create", _rbac_resource(resource), metadata.get("namespace"), metadata.get("name"))
        call = self._dynamic.create(
            resource,
            body=dict(body),
            field_manager=FIELD_MANAGER,
            query_params=_strict(),
            dry_run="All" if dry_run else None,
            **self._call,
        )
        return await (self._ask(request, call) if dry_run else self._write(request, call))

    async def apply(self, body: JsonObject) -> JsonObject:
        """Server-side apply with force: the fields in ``body`` become ours, whoever owned them. RequestRejected for a
        field that the object cannot have."""
        resource = self._resource(body["apiVersion"], body["kind"])
        metadata = body["metadata"]
        return await self._write(
            Request("patch", _rbac_resource(resource), metadata.get("namespace"), metadata["name"]),
            self._dynamic.server_side_apply(
                resource,
                body=dict(body),
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
                query_params=_strict(),
                **self._call,
            ),
        )

    async def delete(
        self, api_version: str, kind: str, name: str, namespace: str, *, uid: str, propagation: str = "Background"
    ) -> None:
        """Delete the object with this uid; Conflict if another object has its name by now, NotFound if it is gone."""
        resource = self._resource(api_version, kind)
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": propagation,
        }
        await self._write(
            Request("delete", _rbac_resource(resource), namespace, name),
            self._dynamic.delete(resource, name=name, namespace=namespace, body=body, **self._call),
        )

    async def patch_status(
        self, api_version: str, kind: str, name: str, namespace: str, body: JsonObject
    ) -> JsonObject:
        """Merge ``body`` into the object through its status subresource; Conflict if ``body`` carries another
        ``metadata.resourceVersion`` than the object."""
        return await self._merge(api_version, kind, name, namespace, body, "/status")

    async def patch(self, api_version: str, kind: str, name: str, namespace: str, body: JsonObject) -> JsonObject:
        """As `patch_status`, for everything but the status."""
        return await self._merge(api_version, kind, name, namespace, body, "")

    async def _merge(
        self, api_version: str, kind: str, name: str, namespace: str, body: JsonObject, subresource: str
    ) -> JsonObject:
        resource = self._resource(api_version, kind)
        return await self._write(
            Request("patch", f"{_rbac_resource(resource)}{subresource}", namespace, name),
            self._dynamic.request(
                "patch",
                f"{resource.path(name=name, namespace=namespace)}{subresource}",
                body=dict(body),
                content_type="application/merge-patch+json",
                field_manager=FIELD_MANAGER,
                **self._call,
            ),
        )

    async def _write(self, request: Request, call: Awaitable[Any]) -> JsonObject:
        answer = await self._ask(request, call)
        self._after_write()
        return answer

    async def _ask(self, request: Request, call: Awaitable[Any]) -> JsonObject:
        try:
            answer: JsonObject = await call
        except ApiException as error:
            raise error_for(request, error.status, error.body) from None
        except (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError) as error:
            raise Unavailable(
                f"{request}: no answer from the API server: {str(error) or type(error).__name__}"
            ) from error
        return answer

    def _resource(self, api_version: str, kind: str) -> Resource:
        plural, namespaced = KINDS[api_version, kind]
        group, _, version = api_version.rpartition("/")
        return Resource(
            prefix="apis" if group else "api",
            group=group,
            api_version=version,
            kind=kind,
            name=plural,
            namespaced=namespaced,
            client=self._dynamic,
        )


def _strict() -> list[tuple[str, str]]:
    """Of what is created or applied: a field that the object cannot have is an error, instead of being left out.

    A status is not written so: the cluster may have the CRD of an older release. The client adds to the list.
    """
    return [("fieldValidation", "Strict")]


def _plain(_: DynamicClient, answer: Any) -> Any:
    return answer


def _rbac_resource(resource: Resource) -> str:
    """As RBAC names it: ``jobs.batch``."""
    return f"{resource.name}.{resource.group}" if resource.group else str(resource.name)
