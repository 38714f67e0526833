"""Where the API server is and how to log in: from the pod's service account, or from a kubeconfig."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, SERVICE_TOKEN_FILENAME

from multitask_operator.cluster.errors import ConnectionConfigError

DEFAULT_KUBECONFIG = "~/.kube/config"


@dataclass(frozen=True)
class Login:
    """The same connection in plain values, for a client other than ours. Paths are of PEM files."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    private_key_path: str | None
    verify: bool
    scheme: str | None
    token: str | None
    proxy: str | None


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


async def login(configuration: Configuration) -> Login:
    """The connection of ``configuration``, with the token of this moment."""
    words = (await configuration.get_api_key_with_prefix("BearerToken") or "").split(maxsplit=1)
    return Login(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        verify=configuration.verify_ssl,
        scheme=words[0].capitalize() if words else None,
        token=words[1].strip() if len(words) > 1 else None,
        proxy=configuration.proxy,
    )


def _in_a_pod(environ: Mapping[str, str]) -> bool:
    return bool(environ.get(SERVICE_HOST_ENV_NAME)) and Path(SERVICE_TOKEN_FILENAME).exists()


def _some_exist(source: str) -> bool:
    return any(Path(path).expanduser().exists() for path in source.split(os.pathsep) if path)
