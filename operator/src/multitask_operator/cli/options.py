"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click


def model_file(path: Path) -> Path:
    """The resource file that an argument FILE means: of a folder its ``model.yaml``."""
    return path / "model.yaml" if path.is_dir() else path


FILE = click.argument(
    "file", type=click.Path(path_type=Path), callback=lambda _context, _parameter, path: model_file(path)
)
DIR = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
NAME = click.argument("name")
WORKDIR = click.option(
    "--workdir",
    type=click.Path(path_type=Path),
    help="Folder for artifacts, logs and the report.  [default: .mtm/<name> beside FILE]",
)
OUTPUT = click.option("--output", type=click.Choice(["text", "json"]), default="text", help="Format of the result.")
CLAIM = click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="NAME=DIR",
    help="Local folder to use in place of the claim of pvc://NAME/… URIs. Repeat it for each claim.",
)
REFRESH = click.option(
    "--refresh", is_flag=True, help="Run again what a release with other stage versions has finished."
)
DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
NO_SERVE = click.option("--no-serve", is_flag=True, help="Skip the stages verify and ledger, which start servers.")


def cluster_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that choose a cluster; the command gets them as ``cluster``, a `ClusterOptions`."""

    @functools.wraps(command)
    def wrapped(*, namespace: str | None, context: str | None, kubeconfig: Path | None, **others: object) -> int:
        from multitask_operator.commands.cluster.options import ClusterOptions

        return command(cluster=ClusterOptions(namespace, context, kubeconfig), **others)

    for option in (
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path),
            help="Kubeconfig file.  [default: that of KUBECONFIG, or ~/.kube/config]",
        ),
        click.option("--context", help="Context of the kubeconfig.  [default: the current one]"),
        click.option("-n", "--namespace", help="Namespace of the model.  [default: that of the context]"),
    ):
        wrapped = option(wrapped)
    return wrapped


def mount_claims(claims: Sequence[str]) -> None:
    """Set the variable that pods have for their claims, for the programs that this process starts.

    Raises UsageError.
    """
    from multitask_api.cluster import MOUNTS_VARIABLE

    mounts = {}
    for claim in claims:
        name, _, folder = claim.partition("=")
        if not name or not folder:
            raise click.UsageError(f"--claim {claim}: write NAME=DIR", click.get_current_context())
        if not Path(folder).is_dir():
            raise click.UsageError(f"--claim {claim}: {folder} is not a folder", click.get_current_context())
        mounts[name] = str(Path(folder).resolve())
    if mounts:
        os.environ[MOUNTS_VARIABLE] = json.dumps(mounts)


def repeated(option: str, values: Sequence[str]) -> list[str]:
    """``option`` with each of its values, as words of a command."""
    return [word for value in values for word in (option, value)]


def refuse_options(*options: tuple[str, object], only_for: str) -> None:
    """Raise UsageError for an option that was given although it applies ``only_for`` another use of the command."""
    for option, value in options:
        if value:
            raise click.UsageError(f"{option} applies only to {only_for}", click.get_current_context())
