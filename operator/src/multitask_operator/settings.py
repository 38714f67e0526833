"""The operator's settings: from arguments, else from environment variables."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import ValidationError

from multitask_api.errors import UserError
from multitask_api.resource.pod_templates import PodTemplates
from multitask_api.types import JsonDict, JsonObject
from multitask_operator.text_file import TextFile

GangScheduling = Literal["None", "Coscheduling", "Volcano"]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PAIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9./_-]*=[A-Za-z0-9._-]*")
_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


class InvalidSetting(UserError):
    """One or more settings cannot be used; the message has a line for each and names its variable or argument."""


@dataclass(frozen=True)
class PodDefaults:
    """What the installation adds to all stage pods, in the fields of ``spec.training``."""

    pod_template: JsonObject = dataclasses.field(default_factory=dict)
    pod_templates: PodTemplates = dataclasses.field(default_factory=PodTemplates)


def _image(text: str) -> str:
    if re.search(r"\s", text) or text.startswith("-"):
        raise ValueError("is no image name; write registry/repository:tag or registry/repository@sha256:…")
    return text


def _pull_policy(text: str) -> PullPolicy:
    if text not in ("Always", "IfNotPresent", "Never"):
        raise ValueError("is none of Always, IfNotPresent and Never")
    return cast(PullPolicy, text)


def _gang_scheduling(text: str) -> GangScheduling:
    if text not in ("None", "Coscheduling", "Volcano"):
        raise ValueError("is none of None, Coscheduling and Volcano")
    return cast(GangScheduling, text)


def _namespaces(text: str) -> tuple[str, ...]:
    names = tuple(sorted({part.strip() for part in text.split(",")} - {""}))
    wrong = [name for name in names if not _LABEL.fullmatch(name)]
    if wrong:
        raise ValueError(f"names {wrong[0]!r}, which is no namespace; write names with commas between them")
    return names


def _gpu_resource(text: str) -> str:
    if not _RESOURCE.fullmatch(text):
        raise ValueError("is no extended resource; write domain/name as in nvidia.com/gpu")
    return text


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("is no IP address, such as 127.0.0.1 or ::1") from error


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("is neither true nor false")
    return text == "true"


def _pods(text: str, names: Set[str], of: str) -> PodDefaults:
    try:
        given = json.loads(text)
        if not isinstance(given, dict) or given.keys() - names:
            raise ValueError
        templates = PodTemplates.model_validate(given.get("podTemplates", {}), by_name=False)
        common: JsonDict = given.get("podTemplate", {})
        for template in (common, *(getattr(templates, name) or {} for name in PodTemplates.model_fields)):
            if template.keys() - {"metadata", "spec"}:
                raise ValueError
    except (ValueError, ValidationError, AttributeError) as error:
        raise ValueError(
            f"is no JSON object with {' and '.join(sorted(names))} as in {of}, each with metadata and spec"
        ) from error
    return PodDefaults(common, templates)


def _stage_pods(text: str) -> PodDefaults:
    return _pods(text, {"podTemplate", "podTemplates"}, "spec.training")


def _serving_pods(text: str) -> PodDefaults:
    return _pods(text, {"podTemplate"}, "spec.serving")


def _namespace(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError("is no namespace")
    return text


def _host_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError("is not host:port")
    return text


def _selector(text: str) -> str:
    pairs = [part.strip() for part in text.split(",")]
    if not all(_PAIR.fullmatch(pair) for pair in pairs):
        raise ValueError("does not select by labels; write name=value, with commas between several")
    return ",".join(pairs)


def _text_file(path: str) -> TextFile:
    try:
        return TextFile.read(path)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"cannot be read: {error}") from error


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"is not a whole number from {least} to {most}")
        return int(text)

    return parse


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The field ``some_name`` is read from ``MULTITASK_SOME_NAME`` or ``--some-name``; `described` explains each."""

    trainer_image: str
    image_pull_policy: PullPolicy = "IfNotPresent"
    namespaces: tuple[str, ...] = ()
    gpu_resource: str = "nvidia.com/gpu"
    fixed_user: bool = True
    gang_scheduling: GangScheduling = "None"
    stage_pods: PodDefaults = dataclasses.field(default_factory=PodDefaults)
    serving_image: str = ""
    serving_pods: PodDefaults = dataclasses.field(default_factory=PodDefaults)
    gateway_namespace: str = ""
    gateway_selector: str = "app.kubernetes.io/component=gateway"
    gateway_address: str = ""
    gateway_ca_file: TextFile | None = None
    short_name_namespaces: tuple[str, ...] = ()
    max_concurrent_rollouts: int = 3
    workers: int = 8
    resync_seconds: int = 600
    grace_seconds: int = 30
    health_address: str = ""
    health_port: int = 8080
    stale_seconds: int = 300

    @property
    def gateway_labels(self) -> Mapping[str, str]:
        """`gateway_selector`, name → value."""
        return dict(pair.split("=", 1) for pair in self.gateway_selector.split(","))

    @property
    def gateway_ca(self) -> str:
        """The certificates in PEM; empty: the gateways have no TLS."""
        return self.gateway_ca_file.text if self.gateway_ca_file is not None else ""

    def current(self) -> Settings:
        """The same, with files as they are now."""
        file = self.gateway_ca_file.current() if self.gateway_ca_file is not None else None
        return self if file == self.gateway_ca_file else dataclasses.replace(self, gateway_ca_file=file)

    @property
    def are_known(self) -> bool:
        """Whether they are the installation's: only its operator knows them."""
        return True


#: Field → its parser and its help text.
_PARSERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "trainer_image": (_image, "Image of the stage pods."),
    "image_pull_policy": (_pull_policy, "Of stage and server pods: Always, IfNotPresent or Never."),
    "namespaces": (_namespaces, "Namespaces to watch, with commas; empty: all."),
    "gpu_resource": (_gpu_resource, "What a GPU is called in a pod's resources."),
    "fixed_user": (_boolean, "Pods run as user and group 10001; false: the platform chooses, as on OpenShift."),
    "gang_scheduling": (
        _gang_scheduling,
        "What schedules the pods of a Job on several nodes together: None, Coscheduling or Volcano.",
    ),
    "stage_pods": (
        _stage_pods,
        "JSON object: podTemplate and podTemplates as in spec.training, merged into all stage pods before a model's.",
    ),
    "serving_image": (_image, "Image of the servers of new revisions; without one no model is served."),
    "serving_pods": (_serving_pods, "JSON object: podTemplate as in spec.serving, merged into all server pods first."),
    "gateway_namespace": (_namespace, "Namespace of the gateways; without one none are installed."),
    "gateway_selector": (_selector, "Labels of the gateways' pods: name=value, with commas between several."),
    "gateway_address": (_host_port, "HOST:PORT at which pods reach the gateways; needed to verify revisions."),
    "gateway_ca_file": (
        _text_file,
        "File of the certificates that the gateways' is checked against, read again when it changes; without: no TLS.",
    ),
    "short_name_namespaces": (
        _namespaces,
        "Namespaces whose tasks may have short names, as the gateways have them, with commas; empty: all.",
    ),
    "max_concurrent_rollouts": (_number(1, 1000), "Models that roll out a revision at the same time, at most."),
    "workers": (_number(1, 256), "Resources that are reconciled at the same time."),
    "resync_seconds": (
        _number(10, 86_400),
        "Longest time between two reconciles of a resource; it varies from half of this to all.",
    ),
    "grace_seconds": (
        _number(0, 86_400),
        "How long a Job or pod may wait before its model is called Blocked and a Warning is posted.",
    ),
    "health_address": (_address, "IP address on which GET /healthz answers; empty: on all."),
    "health_port": (_number(0, 65_535), "Its port; 0 takes a free one."),
    "stale_seconds": (_number(10, 86_400), "/healthz answers 503 when a resource has waited longer for a worker."),
}


def variable(name: str) -> str:
    """The environment variable of the field called ``name``."""
    return f"MULTITASK_{name.upper()}"


def option(name: str) -> str:
    """The command-line option of the field called ``name``."""
    return f"--{name.replace('_', '-')}"


def read_settings(arguments: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Settings from ``arguments`` (by field name; None: not given), else from ``environ``.

    A value of spaces alone counts as not given. Raises InvalidSetting with every problem at once.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for each in dataclasses.fields(Settings):
        parse, explanation = _PARSERS[each.name]
        source, text = _given(each.name, arguments, environ)
        if text is None:
            if _is_required(each):
                problems.append(f"{variable(each.name)} is not set: {_lowered(explanation)}")
            continue
        try:
            values[each.name] = parse(text)
        except ValueError as error:
            problems.append(f"{source}: {text!r} {error}")
    if problems:
        raise InvalidSetting("\n".join(problems))
    return Settings(**values)


def described() -> Iterable[tuple[str, str]]:
    """(field name, help with the default) of every setting, for the program's ``--help``."""
    for each in dataclasses.fields(Settings):
        given = ", ".join(each.default) if isinstance(each.default, tuple) else each.default
        given = str(given).lower() if isinstance(given, bool) else given
        default = "" if given in (dataclasses.MISSING, "", None) else f" Default: {given}."
        yield each.name, f"{_PARSERS[each.name][1]}{default} [{variable(each.name)}]"


def _given(name: str, arguments: Mapping[str, str | None], environ: Mapping[str, str]) -> tuple[str, str | None]:
    for source, text in ((option(name), arguments.get(name)), (variable(name), environ.get(variable(name)))):
        if text is not None and text.strip():
            return source, text.strip()
    return "", None


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:].rstrip(".")
