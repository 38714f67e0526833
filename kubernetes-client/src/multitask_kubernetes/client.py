"""Requests to an API server, on the asynchronous dynamic client: plain dicts in and out, a time limit on
each, and one exception tree."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic.client import DynamicClient
from kubernetes.aio.dynamic.resource import Resource

from multitask_api.types import JsonObject
from multitask_kubernetes.errors import Request, Unavailable, error_for
from multitask_kubernetes.hooks import NO_ANSWER, Count, Observer, nothing, noting_the_status, status, uncounted
from multitask_kubernetes.kinds import KINDS, rbac_resource

FIELD_MANAGER = "multitask-operator"
"""Of the operator, as ``metadata.managedFields`` and audit logs name it."""

#: Of one request, from the wait for a free connection to the last byte of the answer.
TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)

#: Asks for objects without their content; ``PartialObjectMetadata`` or ``PartialObjectMetadataList`` fills the gap.
METADATA_ONLY = "application/json;as={};g=meta.k8s.io;v=v1"

#: Objects of one page of a list.
PAGE = 500


class Client:
    """One connection pool to one API server; close it, or use it as an asynchronous context.

    Every method raises the errors of `multitask_kubernetes.errors`. ``after_write`` is called after every request
    that changed something and before its answer is used. ``connections``: requests at the same time; 0: any number.
    ``field_manager``: the name under which fields are written, and the user agent.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        after_write: Callable[[], None] = nothing,
        observer: Observer | None = None,
        count: Count = uncounted,
        connections: int = 64,
        field_manager: str = FIELD_MANAGER,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
    ) -> None:
        configuration.connection_pool_maxsize = connections
        # a kubeconfig's proxy is used; those in the environment are not meant for a cluster's own address
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.trace_configs = [noting_the_status()]
        self._api = ApiClient(configuration)
        self._api.user_agent = field_manager
        self._dynamic = DynamicClient(self._api)
        self._field_manager = field_manager
        self._after_write = after_write
        self._observer = observer
        self._count = count
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
        item = await self._ask(
            Request("get", _rbac(resource), namespace, name),
            self._dynamic.get(resource, name=name, namespace=namespace, **self._call),
        )
        if self._observer is not None:
            self._observer.saw(item)
        return item

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
        items: list[JsonObject] = []
        version = ""
        async for page, listed in self.pages(api_version, kind, namespace, labels, fields):
            items += page
            version = listed
        if self._observer is not None and fields is None:
            self._observer.saw_list((api_version, kind), namespace, labels, items, version)
        return tuple(sorted(items, key=lambda item: (item["metadata"].get("namespace", ""), item["metadata"]["name"])))

    async def pages(
        self,
        api_version: str,
        kind: str,
        namespace: str | None,
        labels: str | None,
        fields: str | None,
        *,
        metadata_only: bool = False,
    ) -> AsyncIterator[tuple[Sequence[JsonObject], str]]:
        """As `list`, page by page as the server sorts them; each with the resource version of the whole list."""
        resource = self._resource(api_version, kind)
        headers = {"Accept": METADATA_ONLY.format("PartialObjectMetadataList")} if metadata_only else {}
        request = Request("list", _rbac(resource), namespace, None)
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
                    header_params=dict(headers),
                    **self._call,
                ),
            )
            metadata = page.get("metadata", {})
            # items of a list do not say what they are
            items = [{"apiVersion": api_version, "kind": kind, **item} for item in page.get("items") or ()]
            yield items, str(metadata.get("resourceVersion", ""))
            following = metadata.get("continue")
            if not following:
                return

    async def create(self, body: JsonObject, *, dry_run: bool = False) -> JsonObject:
        """Make the object; AlreadyExists if there is one of its name, RequestRejected for a field that it cannot have.

        ``dry_run``: the server checks everything and keeps nothing.
        """
        resource = self._resource(body["apiVersion"], body["kind"])
        metadata = body["metadata"]
        request = Request("create", _rbac(resource), metadata.get("namespace"), metadata.get("name"))
        call = self._dynamic.create(
            resource,
            body=dict(body),
            field_manager=self._field_manager,
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
            Request("patch", _rbac(resource), metadata.get("namespace"), metadata["name"]),
            self._dynamic.server_side_apply(
                resource,
                body=dict(body),
                field_manager=self._field_manager,
                force_conflicts=True,
                query_params=_strict(),
                **self._call,
            ),
        )

    async def apply_status(self, body: JsonObject) -> JsonObject:
        """As `apply`, for ``body.status`` alone; of ``metadata`` only what names the object.

        NotFound if there is none; Conflict if ``metadata.uid`` is given and is another one.
        """
        resource = self._resource(body["apiVersion"], body["kind"])
        name, namespace = body["metadata"]["name"], body["metadata"].get("namespace")
        return await self._write(
            Request("patch", f"{_rbac(resource)}/status", namespace, name),
            self._dynamic.request(
                "patch",
                f"{resource.path(name=name, namespace=namespace)}/status",
                body=dict(body),
                content_type="application/apply-patch+yaml",
                field_manager=self._field_manager,
                force_conflicts=True,
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
            Request("delete", _rbac(resource), namespace, name),
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
            Request("patch", f"{_rbac(resource)}{subresource}", namespace, name),
            self._dynamic.request(
                "patch",
                f"{resource.path(name=name, namespace=namespace)}{subresource}",
                body=dict(body),
                content_type="application/merge-patch+json",
                field_manager=self._field_manager,
                **self._call,
            ),
        )

    async def _write(self, request: Request, call: Awaitable[Any]) -> JsonObject:
        answer = await self._ask(request, call)
        self._after_write()
        if self._observer is not None and "resourceVersion" in answer.get("metadata", {}):
            self._observer.saw(answer)
        return answer

    async def _ask(self, request: Request, call: Awaitable[Any]) -> JsonObject:
        try:
            answer: JsonObject = await call
        except ApiException as error:
            self._count(request, str(error.status))
            raise error_for(request, error.status, error.body) from None
        except (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError) as error:
            self._count(request, NO_ANSWER)
            raise Unavailable(
                f"{request}: no answer from the API server: {str(error) or type(error).__name__}"
            ) from error
        self._count(request, str(status.get()))
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


def _rbac(resource: Resource) -> str:
    group_version = f"{resource.group}/{resource.api_version}" if resource.group else resource.api_version
    return rbac_resource(group_version, resource.kind)
