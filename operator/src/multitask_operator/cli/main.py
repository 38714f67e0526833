"""The commands of ``mtm`` as users call them, and the entry points."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from multitask_operator.cli.encoding import replace_unencodable_characters
from multitask_operator.cli.errors import run_reporting_errors
from multitask_operator.cli.options import (
    CLAIM,
    DEVICE,
    FILE,
    NAME,
    NO_SERVE,
    OUTPUT,
    REFRESH,
    WORKDIR,
    cluster_options,
    model_file,
    mount_claims,
    refuse_options,
    repeated,
)
from multitask_operator.cli.rollout import rollback, rollout
from multitask_operator.cli.serving import export, predict, serve
from multitask_operator.cli.study import study

if TYPE_CHECKING:
    from multitask_operator.commands.cluster.options import ClusterOptions


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("multitask-operator"), prog_name="mtm", message="%(prog)s %(version)s")
def cli() -> None:
    """Train, evaluate and serve one model for many text tasks, on each as good as a model of its own.

    status, explain, logs, plan NAME, report NAME, gc NAME, rollout and rollback work on a cluster, through your
    kubeconfig. They also run as `kubectl mtm …`.

    Exit status: 0 done, 1 a stage failed, 2 wrong input, 130 interrupted.
    """


@cli.command()
@FILE
@CLAIM
@OUTPUT
def validate(file: Path, claims: Sequence[str], output: str) -> int:
    """Check FILE and every row of its data, and list all problems."""
    from multitask_operator.commands import validate as command

    mount_claims(claims)
    return command.validate(file, as_json=output == "json", options=repeated("--claim", claims))


@cli.command(short_help="Show what would run, what is cached, what it costs.")
@click.argument("name", metavar="FILE|NAME")
@WORKDIR
@CLAIM
@NO_SERVE
@REFRESH
@click.option(
    "--gpu",
    metavar="NAME",
    help="Memory and time in a cluster with this GPU, such as L4, RTX4090, A100-40GB or 24GB.  [default: here]",
)
@OUTPUT
@cluster_options
def plan(
    name: str,
    workdir: Path | None,
    claims: Sequence[str],
    *,
    no_serve: bool,
    refresh: bool,
    gpu: str | None,
    output: str,
    cluster: ClusterOptions,
) -> int:
    """Show what would run for FILE, what is cached, and what it costs. Nothing is run.

    The argument is taken as the NAME of a MultiTaskModel in a cluster if no file or folder is called so, or if
    --namespace, --context or --kubeconfig is given.

    Exit status: 0, or 2 for wrong input, such as a training that does not fit the memory of its GPU.
    """
    if cluster.refers_to(name):
        from multitask_operator.commands.cluster import plan as cluster_command
        from multitask_operator.commands.cluster import session

        refuse_options(
            ("--workdir", workdir),
            ("--claim", claims),
            ("--no-serve", no_serve),
            ("--refresh", refresh),
            only_for="a run on this machine",
        )
        return session.explain_missing_cluster(
            name, "file", lambda: cluster_command.plan(name, cluster, as_json=output == "json", gpu=gpu)
        )
    from multitask_operator.commands import plan as command

    mount_claims(claims)
    for_run = [*repeated("--workdir", [str(workdir)] if workdir else []), *repeated("--claim", claims)]
    for_run += ["--no-serve"] if no_serve else []
    for_run += ["--refresh"] if refresh else []
    return command.plan(
        model_file(Path(name)),
        workdir,
        serve=not no_serve,
        refresh=refresh,
        as_json=output == "json",
        gpu=gpu,
        options=for_run,
    )


@cli.command(short_help="Run the missing stages; continues an interrupted run.")
@FILE
@WORKDIR
@CLAIM
@NO_SERVE
@REFRESH
@DEVICE
@OUTPUT
def run(
    file: Path,
    workdir: Path | None,
    claims: Sequence[str],
    *,
    no_serve: bool,
    refresh: bool,
    device: str,
    output: str,
) -> int:
    """Run the stages of FILE that are missing. After Ctrl-C or a kill, run it again to continue.

    FILE may be a folder with a model.yaml, here and in other commands.

    Exit status: 0 done, 1 a stage failed, 2 wrong input, 130 interrupted.
    """
    from multitask_operator.commands import run as command

    mount_claims(claims)
    return command.run(file, workdir, serve=not no_serve, refresh=refresh, as_json=output == "json", device=device)


@cli.command(short_help="Show the table of results, and write report.html.")
@click.argument("name", metavar="DIR|NAME")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="With NAME: folder for report.json and report.html.  [default: .mtm/cluster/<namespace>/<name>]",
)
@OUTPUT
@cluster_options
def report(name: str, to: Path | None, *, output: str, cluster: ClusterOptions) -> int:
    """Make DIR/report.html from DIR/report.json, and show the table of results.

    The argument is taken as the NAME of a MultiTaskModel in a cluster if no file or folder is called so, or if
    --namespace, --context or --kubeconfig is given. Its report is made from what its stages have reported.
    """
    if cluster.refers_to(name):
        from multitask_operator.commands.cluster import report as cluster_command
        from multitask_operator.commands.cluster import session

        return session.explain_missing_cluster(
            name, "folder", lambda: cluster_command.report(name, cluster, to, as_json=output == "json")
        )
    from multitask_operator.commands import report as command

    refuse_options(("--to", to), only_for="a report of a cluster")
    return command.report(Path(name), as_json=output == "json")


@cli.command(short_help="In a cluster: the progress of a model.")
@NAME
@OUTPUT
@cluster_options
def status(name: str, *, output: str, cluster: ClusterOptions) -> int:
    """Show the status of the MultiTaskModel NAME, and what its Jobs do now."""
    from multitask_operator.commands.cluster import status as command

    return command.status(name, cluster, as_json=output == "json")


@cli.command(short_help="In a cluster: what a model waits for, and what to do.")
@NAME
@OUTPUT
@cluster_options
def explain(name: str, *, output: str, cluster: ClusterOptions) -> int:
    """Explain the state of the MultiTaskModel NAME: one reason, and what to do next."""
    from multitask_operator.commands.cluster import explain as command

    return command.explain(name, cluster, as_json=output == "json")


@cli.command(short_help="In a cluster: the log of a stage.")
@NAME
@click.argument("stage", required=False)
@click.option("-f", "--follow", is_flag=True, help="Keep printing until the pod ends.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@cluster_options
def logs(name: str, stage: str | None, *, follow: bool, tail: int | None, cluster: ClusterOptions) -> int:
    """Print the log of the newest pod of STAGE of the MultiTaskModel NAME.

    STAGE is a stage (baseline/urgency/seed-17), a kind with a single stage (filter), resolve, clean-up, or a Job.
    Default: the stage that failed, else the one that runs, else the one that ran last.
    """
    from multitask_operator.commands.cluster import logs as command

    return command.logs(name, stage, cluster, follow=follow, tail=tail)


@cli.command(short_help="Remove the artifacts that no plan uses.")
@click.argument("name", metavar="DIR|NAME")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.option(
    "--forget", metavar="MODEL", help="With DIR: delete the plan of this model or study first, and what only it uses."
)
@OUTPUT
@cluster_options
def gc(name: str, *, dry_run: bool, forget: str | None, output: str, cluster: ClusterOptions) -> int:
    """Remove the artifacts in DIR that no current plan uses, and old scratch folders.

    The argument is taken as the NAME of a MultiTaskModel in a cluster if no file or folder is called so, or if
    --namespace, --context or --kubeconfig is given. A Job then removes from its storage what neither its plan nor a
    kept revision uses, while none of its stages runs.
    """
    if cluster.refers_to(name):
        from multitask_operator.commands.cluster import gc as cluster_command
        from multitask_operator.commands.cluster import session

        refuse_options(("--forget", forget), only_for="a work folder on this machine")
        return session.explain_missing_cluster(
            name, "folder", lambda: cluster_command.gc(name, cluster, dry_run=dry_run, as_json=output == "json")
        )
    from multitask_operator.commands import gc as command

    return command.gc(Path(name), dry_run=dry_run, forget=forget, as_json=output == "json")


for command in (study, serve, predict, export, rollout, rollback):
    cli.add_command(command)


@cli.command(name="version")
def show_version() -> int:
    """Print the version."""
    click.echo(f"mtm {version('multitask-operator')}")
    return 0


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point: runs a command and ends the process with its status."""
    replace_unencodable_characters()
    sys.exit(invoke(argv))


def kubectl_plugin() -> None:
    """The entry point ``kubectl-mtm``, which kubectl runs as ``kubectl mtm``."""
    replace_unencodable_characters()
    sys.exit(invoke(program="kubectl mtm"))


def invoke(argv: Sequence[str] | None = None, program: str = "mtm") -> int:
    """Run the command that ``argv`` names; its exit status. Errors are printed, see `run_reporting_errors`."""
    return run_reporting_errors(lambda: int(cli.main(args=argv, prog_name=program, standalone_mode=False) or 0))
