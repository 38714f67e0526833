"""This machine's pip settings and certificates: an image build uses them, and the image must not contain them."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

#: pip's settings of how to reach an index. Without ``find-links``: a build does not have the folders that it may name.
SETTINGS = ("index-url", "extra-index-url", "trusted-host", "cert", "client-cert", "proxy", "timeout", "retries")
#: Settings whose values are private.
PRIVATE = ("index-url", "extra-index-url", "trusted-host", "proxy")
_INSIDE = "/run/machine"
#: Variables that name a CA bundle, the most specific first.
_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def pip_files(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The files that pip reads its settings from, in its order: a later file wins."""
    home = Path.home()
    configuration = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    named = environment.get("PIP_CONFIG_FILE")
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", configuration / "pip" / "pip.conf"]
    return files + ([Path(named)] if named else [])


def pip_settings(files: Sequence[Path], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those of `SETTINGS` that this machine sets, in a file or a variable."""
    options = {}
    for path in files:
        parser = configparser.RawConfigParser()
        parser.read(path)
        for section in ("global", "install", "wheel"):
            if parser.has_section(section):
                options.update(parser.items(section))
    options.update({name: value for name in SETTINGS if (value := environment.get(f"PIP_{_variable(name)}"))})
    certificates = [environment[name] for name in _CERTIFICATES if environment.get(name)]
    if certificates:
        options.setdefault("cert", certificates[0])
    return {name: options[name] for name in SETTINGS if name in options}


def volumes(folder: Path, settings: Mapping[str, str]) -> dict[Path, str]:
    """Write ``settings`` and the files they name below ``folder``; file or folder → where a build mounts it."""
    folder.mkdir(mode=0o700)
    copied = dict(settings)
    for name in ("cert", "client-cert"):
        if name in copied:
            (folder / f"{name}.pem").write_bytes(Path(copied[name]).read_bytes())
            copied[name] = f"{_INSIDE}/{name}.pem"
    pip = folder / "pip.conf"
    pip.write_text("[global]\n" + "".join(f"{name} = {_indented(value)}\n" for name, value in copied.items()))
    return {folder: _INSIDE, pip: "/etc/pip.conf"}


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")


def _indented(value: str) -> str:
    """A value of several lines in the form of an ini file."""
    return "\n  ".join(value.split("\n"))
