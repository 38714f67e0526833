"""From a person's arguments to a connection; what a cluster answers badly becomes one line with the next step."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from multitask_api.errors import MultitaskError, UserError
from multitask_operator.cluster.connection import connect
from multitask_operator.cluster.errors import ConnectionConfigError, Forbidden, Unavailable
from multitask_operator.cluster.logs import LogClient, user_namespace

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

T = TypeVar("T")


class NotAllowed(UserError):
    """The user lacks a permission; the message names verb and resource."""


class NoAnswer(MultitaskError):
    """The API server cannot be reached, or does not accept the user's credentials."""


@dataclass(frozen=True)
class ClusterOptions:
    """The cluster and namespace that were asked for; None: as the kubeconfig says."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None

    @property
    def given(self) -> bool:
        """Whether anything was."""
        return (self.namespace, self.context, self.kubeconfig) != (None, None, None)

    def refers_to(self, name: str) -> bool:
        """Whether ``name`` is that of a resource: it could be one, and no file or folder is called so.

        Options that only a cluster has decide it at once.
        """
        return self.given or (_NAME.fullmatch(name) is not None and not Path(name).exists())


def run_with_client(where: ClusterOptions, work: Callable[[LogClient, str], Awaitable[T]]) -> T:
    """What ``work(client, namespace)`` gives. Raises NoCluster, NotAllowed, NoAnswer and what ``work`` raises."""
    return asyncio.run(_ask(where, work))


async def _ask(where: ClusterOptions, work: Callable[[LogClient, str], Awaitable[T]]) -> T:
    try:
        configuration = await connect(where.kubeconfig, where.context)
        namespace = where.namespace or user_namespace(where.kubeconfig, where.context)
        async with LogClient(configuration) as client:
            return await work(client, namespace)
    except Forbidden as error:
        raise NotAllowed(
            f"you may not {error.request}: {error.message}; ask for the cluster's role view in that namespace, or for"
            " the ClusterRole …-mtm of the operator's chart"
        ) from error
    except Unavailable as error:
        raise NoAnswer(
            f"{error}; see whether `kubectl version` gets an answer, or choose another cluster with --context"
        ) from error


def explain_missing_cluster(name: str, expected: str, work: Callable[[], int]) -> int:
    """Run ``work`` for a ``name`` that is no ``what``; without a cluster, say how it was understood."""
    try:
        return work()
    except ConnectionConfigError as error:
        raise ConnectionConfigError(
            f"there is no {expected} {name!r}, and no cluster to ask for a MultiTaskModel: {error}"
        ) from error
