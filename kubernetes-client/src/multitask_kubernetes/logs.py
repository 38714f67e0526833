"""What people read of a cluster and the operator does not: logs, and the namespace of their context."""

from __future__ import annotations

import codecs
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import yaml
from kubernetes.aio.config import ConfigException
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

from multitask_kubernetes.client import TIMEOUT
from multitask_kubernetes.connection import DEFAULT_KUBECONFIG
from multitask_kubernetes.errors import ConnectionConfigError, Request
from multitask_kubernetes.streams import StreamClient

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

#: Without a total: a log that is followed ends when its pod does.
_FOLLOWING = aiohttp.ClientTimeout(total=None, sock_connect=5.0)


def user_namespace(
    kubeconfig: Path | None = None, context: str | None = None, environ: Mapping[str, str] = os.environ
) -> str:
    """The namespace of the context that `connect` uses with the same arguments. Raises ConnectionConfigError."""
    asked = kubeconfig is not None or context is not None
    if not asked and environ.get(SERVICE_HOST_ENV_NAME) and _POD_NAMESPACE.exists():
        return _POD_NAMESPACE.read_text("utf-8").strip()
    source = str(kubeconfig) if kubeconfig else environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    try:
        loader = KubeConfigLoader(KubeConfigMerger(source).config, active_context=context)
        namespace = loader.current_context["context"].get("namespace")
    except (ConfigException, OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConnectionConfigError(
            f"kubeconfig {source} names no namespace: {' '.join(str(error).split())}; give one"
        ) from error
    return str(namespace or "default")


class LogClient(StreamClient):
    """A client that reads for a person."""

    async def log(
        self, namespace: str, pod: str, container: str, *, follow: bool, tail: int | None
    ) -> AsyncIterator[str]:
        """The container's log in pieces of text; with ``follow`` until it ends. ``tail``: only the last lines."""
        query = [("container", container), ("follow", str(follow).lower())]
        if tail is not None:
            query.append(("tailLines", str(tail)))
        path, limit = f"/api/v1/namespaces/{namespace}/pods/{pod}/log", _FOLLOWING if follow else TIMEOUT
        async with self.opened(Request("get", "pods/log", namespace, pod), path, query, limit) as answer:
            decode = codecs.getincrementaldecoder("utf-8")("replace").decode
            async for piece in answer.content.iter_any():
                yield decode(piece)
