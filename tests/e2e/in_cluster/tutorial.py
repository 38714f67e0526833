"""Follows docs/tutorial.md word for word: its commands run in one shell, and what they print is written below each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from devcluster import binaries
from devcluster.one_node import OneNode
from e2e.in_cluster import volumes
from e2e.in_cluster.steps import ROOT

Map = dict[str, Any]
PAGE = ROOT / "docs" / "tutorial.md"
SECONDS = 3600
_NAMESPACE, _CLAIM = "team", "models"
_BLOCK = re.compile(r"^```sh\n(?P<commands>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
#: Where the page has the checkout.
_SHOWN = "/home/user/multitask"
_MARK = "<<< block {} >>>"


def follow(node: OneNode, folder: Path, values: Map, busybox: str) -> None:
    """Run every command of the page in a copy of the checkout, and write what they print into the page.

    ``values``: of the chart, for the images of this checkout. ``busybox``: a reference that stands in for that image.
    AssertionError if a command fails.
    """
    checkout = folder / "checkout"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    models = folder / "models"
    models.mkdir()
    models.chmod(0o777)
    node.client.kubectl("apply", "-f", "-", stdin=volumes.persistent_volume(_NAMESPACE, _CLAIM, models))
    node.tag(busybox, "docker.io/library/busybox:latest")
    text = PAGE.read_text("utf-8")
    blocks = [match["commands"] for match in _BLOCK.finditer(text)]
    outputs = [
        each.replace(str(checkout), _SHOWN) for each in _run(blocks, checkout, _environment(node, folder, values))
    ]
    PAGE.write_text(with_outputs(text, outputs), "utf-8")


def with_outputs(text: str, outputs: list[str]) -> str:
    """The page with what each of its blocks of commands printed; a block that printed nothing has none."""
    left = iter(outputs)

    def replaced(match: re.Match[str]) -> str:
        output = next(left)
        shown = f"\n```text\n{output}```\n" if output.strip() else ""
        return f"```sh\n{match['commands']}```\n{shown}"

    return _BLOCK.sub(replaced, text)


def _run(blocks: list[str], folder: Path, environment: Mapping[str, str]) -> list[str]:
    marked = [f"echo '{_MARK.format(number)}'\n{block}" for number, block in enumerate(blocks)]
    # Job control, for `kill %1`.
    script = "set -meuo pipefail\n" + "\n".join(marked)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    print(done.stdout, file=sys.stderr, flush=True)
    assert done.returncode == 0, f"a command of {PAGE.name} failed with {done.returncode}"
    rest, outputs = done.stdout, []
    for number in range(len(blocks)):
        _, _, rest = rest.partition(f"{_MARK.format(number)}\n")
        output = rest.partition("<<< block ")[0]
        outputs.append("".join(f"{line.rstrip()}\n" for line in output.splitlines()).strip("\n") + "\n")
    return outputs


def _environment(node: OneNode, folder: Path, values: Map) -> dict[str, str]:
    """kubectl, helm and mtm on the PATH; helm installs the images of this checkout."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "kubectl").symlink_to(binaries.path("kubectl"))
    (programs / "values.yaml").write_text(yaml.safe_dump(values), "utf-8")
    helm = programs / "helm"
    helm.write_text(
        f'#!/bin/sh\n[ "$1" = install ] && set -- "$@" --values {programs}/values.yaml\n'
        f'exec {binaries.path("helm")} "$@"\n',
        "utf-8",
    )
    helm.chmod(0o755)
    config = folder / "kubeconfig"
    shutil.copy(node.client.admin, config)
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PATH": ":".join(path), "KUBECONFIG": str(config), "REGISTRY": "", "NO_PROXY": "*"}
