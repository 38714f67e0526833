"""Where the API server is and how to log in: from the pod's service account, or from a kubeconfig."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, SERVICE_TOKEN_FILENAME

from multitask_kubernetes.errors import ConnectionConfigError

DEFAULT_KUBECONFIG = "~/.kube/config"


async def connect(
    kubeconfig: Path | None = None, context: str | None = None, environ: Mapping[str, str] = os.environ
) -> Configuration:
    """``kubeconfig`` (and ``context`` in it) if given; else the service account of the pod this process runs in; else
    what ``KUBECONFIG`` or ``~/.kube/config`` says. Raises ConnectionConfigError."""
    configuration = Configuration()
    asked = kubeconfig is not None or context is not None
    if not asked and _in_a_pod(environ):
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise ConnectionConfigError(f"the pod's service account cannot be used: {error}") from error
        return configuration
    source = str(kubeconfig) if kubeconfig else environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    if not _some_exist(source):
        outside = "" if asked else "this is no pod with a service account, and "
        raise ConnectionConfigError(
            f"{outside}there is no kubeconfig at {source}; name one with --kubeconfig or KUBECONFIG"
        )
    try:
        await config.load_kube_config(source, context=context, client_configuration=configuration, persist_config=False)
    except (config.ConfigException, OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConnectionConfigError(f"kubeconfig {source} cannot be used: {' '.join(str(error).split())}") from error
    return configuration


def _in_a_pod(environ: Mapping[str, str]) -> bool:
    return bool(environ.get(SERVICE_HOST_ENV_NAME)) and Path(SERVICE_TOKEN_FILENAME).exists()


def _some_exist(source: str) -> bool:
    return any(Path(path).expanduser().exists() for path in source.split(os.pathsep) if path)
