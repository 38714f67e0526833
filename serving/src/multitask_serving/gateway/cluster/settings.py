"""The settings of the gateway's program: options, or environment variables as the chart sets them."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask_api.serving_io.gateway_state import STATE_PORT
from multitask_api.serving_io.names import GATEWAY_PORT
from multitask_serving.cli_common import ArgumentParser, parse_host_port

MODULE = "multitask_serving.gateway"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One field for each option; see `OPTIONS`."""

    listen: str
    state_listen: str
    namespaces: tuple[str, ...]
    short_name_namespaces: tuple[str, ...]
    name: str
    callers_file: Path | None
    review_tokens: bool
    tls_folder: Path | None
    mutual_tls_listen: str | None
    label_key_file: Path | None
    max_connection_age_s: float
    drain_delay_s: float
    drain_s: float
    kubeconfig: Path | None
    context: str | None
    log_level: str


def _address(text: str) -> str:
    if parse_host_port(text, first_port=0) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return text


def _listen(text: str) -> str | None:
    return _address(text) if text else None


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _switch(text: str) -> bool:
    if text not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return seconds


#: Option → (environment variable, default, how it is read, help).
OPTIONS: Mapping[str, tuple[str, str, Callable[[str], Any], str]] = {
    "listen": ("MULTITASK_GATEWAY_LISTEN", f"[::]:{GATEWAY_PORT}", _address, "where callers connect"),
    "state-listen": (
        "MULTITASK_GATEWAY_STATE_LISTEN",
        f"[::]:{STATE_PORT}",
        _address,
        "where /state, /metrics, /healthz and /readyz are served",
    ),
    "namespaces": ("MULTITASK_NAMESPACES", "", _names, "whose TaskRoutes are followed, comma-separated; none: all"),
    "short-name-namespaces": (
        "MULTITASK_SHORT_NAME_NAMESPACES",
        "",
        _names,
        "whose tasks may have the names MODEL/TASK and TASK beside NAMESPACE/MODEL/TASK; none: all",
    ),
    "name": ("POD_NAME", socket.gethostname(), str, "this gateway's name in the status of TaskRoutes: its pod's"),
    "callers-file": (
        "MULTITASK_CALLERS_FILE",
        "",
        _path,
        "who may call what; without it everybody may call everything",
    ),
    "review-tokens": (
        "MULTITASK_REVIEW_TOKENS",
        "false",
        _switch,
        "whether the API server is asked whose a ServiceAccount's token is",
    ),
    "tls-folder": ("MULTITASK_TLS_FOLDER", "", _path, "folder with tls.crt and tls.key, and ca.crt for mutual TLS"),
    "mutual-tls-listen": ("MULTITASK_MUTUAL_TLS_LISTEN", "", _listen, "where callers with a certificate connect"),
    "label-key-file": (
        "MULTITASK_LABEL_KEY_FILE",
        "",
        _path,
        "key that signs the ids of answers, the same for all gateways; without it ReportLabel is off",
    ),
    "max-connection-age-s": (
        "MULTITASK_MAX_CONNECTION_AGE_SECONDS",
        "60",
        _seconds,
        "after so long a client is asked to connect again: to a new gateway, or away from one that ends; 0: never",
    ),
    "drain-delay-s": (
        "MULTITASK_DRAIN_DELAY_SECONDS",
        "5",
        _seconds,
        "after SIGTERM the gateway goes on for so long, until nobody is sent here any more",
    ),
    "drain-s": ("MULTITASK_DRAIN_SECONDS", "60", _seconds, "how long calls that run then may take to end"),
}


def read_settings(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> GatewaySettings:
    """From the command line, then the environment, then the defaults. Exits with status 2 for what cannot be read."""
    parser = ArgumentParser(prog=f"python -m {MODULE}", description="Answers every task of a cluster over gRPC.")
    for option, (variable, default, read, text) in OPTIONS.items():
        value = environ.get(variable) or default
        shown = f"{text} [{variable}; default: {default or 'none'}]"
        parser.add_argument(f"--{option}", type=read, default=value, help=shown.replace("%", "%%"))
    parser.add_argument("--kubeconfig", type=Path, help="instead of the pod's own service account")
    parser.add_argument("--context", help="in the kubeconfig; default: its current one")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return GatewaySettings(**vars(parser.parse_args(arguments)))
