"""Connects to the user's cluster and reads a model. Errors of the cluster get a message with the next step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from difflib import get_close_matches
from typing import TypeVar

from multitask_api.errors import MultitaskError, UserError
from multitask_api.resource.model import API_VERSION
from multitask_kubernetes.connection import connect
from multitask_kubernetes.errors import ConnectionConfigError, Forbidden, NotFound, Unavailable
from multitask_kubernetes.logs import LogClient, user_namespace
from multitask_operator.cluster.observe import observe
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.reconciler.state.cluster_state import ClusterState

_KIND = "MultiTaskModel"

T = TypeVar("T")


class PermissionDenied(UserError):
    """The user lacks a permission. The message names verb and resource."""


class ClusterUnavailable(MultitaskError):
    """The API server cannot be reached, or does not accept the user's credentials."""


def run_with_client(options: ClusterOptions, work: Callable[[LogClient, str], Awaitable[T]]) -> T:
    """Connect, and return the result of ``work(client, namespace)``.

    Raises ConnectionConfigError, PermissionDenied, ClusterUnavailable, and what ``work`` raises.
    """
    return asyncio.run(_run(options, work))


async def _run(options: ClusterOptions, work: Callable[[LogClient, str], Awaitable[T]]) -> T:
    try:
        configuration = await connect(options.kubeconfig, options.context)
        namespace = options.namespace or user_namespace(options.kubeconfig, options.context)
        async with LogClient(configuration, field_manager="mtm") as client:
            return await work(client, namespace)
    except Forbidden as error:
        raise PermissionDenied(
            f"you may not {error.request}: {error.message}; ask for the ClusterRole view in that namespace, or for"
            " the ClusterRole …-mtm of the operator's chart"
        ) from error
    except Unavailable as error:
        raise ClusterUnavailable(
            f"{error}; check that `kubectl version` gets an answer, or choose another cluster with --context"
        ) from error


def explain_missing_cluster(name: str, expected: str, work: Callable[[], int]) -> int:
    """Run ``work`` for the resource ``name``. If there is no cluster, the error also says that no file has that name.

    ``expected``: what ``name`` could have been, ``file`` or ``folder``.
    """
    try:
        return work()
    except ConnectionConfigError as error:
        raise ConnectionConfigError(
            f"there is no {expected} {name!r}, and no cluster that could have a MultiTaskModel {name!r}: {error}"
        ) from error


class NoSuchModel(UserError):
    """There is no resource of that name, or the cluster does not know the kind."""


def read_model(options: ClusterOptions, name: str, now: float) -> ClusterState:
    """Connect and read the model ``name``; raises as `run_with_client` and `read_cluster_state` do."""
    return run_with_client(options, lambda client, namespace: read_cluster_state(client, namespace, name, now))


async def read_cluster_state(client: LogClient, namespace: str, name: str, now: float) -> ClusterState:
    """Read the model and its children with a user's permissions, ``now`` in Unix seconds.

    Raises NoSuchModel, and ClusterError for a failed read.
    """
    cluster = await observe(client, namespace, name, now, as_viewer=True)
    if cluster is None:
        raise NoSuchModel(await _explain_missing(client, namespace, name))
    return cluster


async def annotate(
    client: LogClient, namespace: str, name: str, annotation: str, value: str | None, *, otherwise: str = ""
) -> None:
    """Set an annotation of the model; ``value`` None: remove it.

    Raises PermissionDenied, which also says what can be done ``otherwise``.
    """
    try:
        await client.patch(API_VERSION, _KIND, name, namespace, {"metadata": {"annotations": {annotation: value}}})
    except Forbidden as error:
        raise PermissionDenied(
            f"you may not {error.request}: {error.message}; ask for the ClusterRole edit in namespace {namespace}"
            f"{otherwise}"
        ) from error


async def _explain_missing(client: LogClient, namespace: str, name: str) -> str:
    """The message for a model that does not exist: similar names, and namespaces that have one of that name."""
    try:
        names = [item["metadata"]["name"] for item in await client.list(API_VERSION, _KIND, namespace)]
    except NotFound:
        return (
            "this cluster does not know the kind MultiTaskModel; install the operator's chart (docs/cluster.md), or"
            " choose another cluster with --context"
        )
    missing = f"there is no MultiTaskModel {name!r} in namespace {namespace!r}"
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"{missing}; nearest: {', '.join(near)}"
    with suppress(Forbidden):
        models = [item["metadata"] for item in await client.list(API_VERSION, _KIND)]
        elsewhere = [item["namespace"] for item in models if item["name"] == name]
        if elsewhere:
            return f"{missing}; there is one in {', '.join(elsewhere[:3])}: add -n {elsewhere[0]}"
    return f"{missing}; {'it has: ' + ', '.join(names[:5]) if names else 'it has none, see `kubectl get mtm -A`'}"
