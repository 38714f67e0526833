"""The ``mtm`` command. It reads arguments and says errors; the work is in ``commands``, imported when needed."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from multitask_operator.commands.cluster.session import ClusterOptions

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

_FILE = click.argument("file", type=click.Path(path_type=Path))
_DIR = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
_WORKDIR = click.option(
    "--workdir", type=click.Path(path_type=Path), help="Where artifacts, logs and the report lie (default .mtm/<name>)."
)
_OUTPUT = click.option("--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
_CLAIM = click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="NAME=DIR",
    help="The folder that stands on this machine for the claim of pvc://NAME/… addresses; once for each claim.",
)
_NO_SERVE = click.option("--no-serve", is_flag=True, help="Leave out verify and ledger, which start servers.")
_NAME = click.argument("name")
_PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}


def _cluster(command: Callable[..., int]) -> Callable[..., int]:
    """The options by which a command finds its cluster; it gets them as ``where``."""

    @functools.wraps(command)
    def found(*, namespace: str | None, context: str | None, kubeconfig: Path | None, **others: object) -> int:
        from multitask_operator.commands.cluster.session import ClusterOptions

        return command(where=ClusterOptions(namespace, context, kubeconfig), **others)

    for option in (
        click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: KUBECONFIG or ~/.kube/config."),
        click.option("--context", help="In the kubeconfig; default: its current one."),
        click.option("-n", "--namespace", help="Default: the context's."),
    ):
        found = option(found)
    return found


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """One server for many text tasks, as good as a model per task: train, judge, serve.

    Against a cluster, through your kubeconfig: status, explain, logs, plan NAME, report NAME; also as `kubectl mtm …`.

    Exit status: 0 done, 1 a stage failed, 2 wrong input, 130 interrupted.
    """


@cli.command()
@_FILE
@_CLAIM
@_OUTPUT
def validate(file: Path, claims: Sequence[str], output: str) -> int:
    """Check FILE and look at its data; every problem at once."""
    from multitask_operator.commands import validate as command

    _mount(claims)
    return command.validate(file, as_json=output == "json")


@cli.command(short_help="Show what would run, what is cached, what it costs.")
@click.argument("name", metavar="FILE|NAME")
@_WORKDIR
@_CLAIM
@_NO_SERVE
@_OUTPUT
@_cluster
def plan(
    name: str, workdir: Path | None, claims: Sequence[str], *, no_serve: bool, output: str, where: ClusterOptions
) -> int:
    """Show what would run for FILE, what is cached, and what it costs; run nothing.

    NAME is a MultiTaskModel of a cluster: a name that no file or folder here has, or any name together with
    --namespace, --context or --kubeconfig.
    """
    if where.means(name):
        from multitask_operator.commands.cluster import plan as of_cluster
        from multitask_operator.commands.cluster import session

        _refuse_local(("--workdir", workdir), ("--claim", claims), ("--no-serve", no_serve))
        return session.explain_missing_cluster(
            name, "file", lambda: of_cluster.plan(name, where, as_json=output == "json")
        )
    from multitask_operator.commands import plan as command

    _mount(claims)
    return command.plan(Path(name), workdir, serve=not no_serve, as_json=output == "json")


@cli.command(short_help="Run what is missing; run it again to go on.")
@_FILE
@_WORKDIR
@_CLAIM
@_NO_SERVE
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
@_OUTPUT
def run(file: Path, workdir: Path | None, claims: Sequence[str], *, no_serve: bool, device: str, output: str) -> int:
    """Run what is missing for FILE; after Ctrl-C or a kill, run it again to go on.

    Exit status: 0 done, 1 a stage failed, 2 wrong input, 130 interrupted.
    """
    from multitask_operator.commands import run as command

    _mount(claims)
    return command.run(file, workdir, serve=not no_serve, as_json=output == "json", device=device)


@cli.command(short_help="Start Triton and the gateway on what `run` exported.")
@_DIR
@click.option("--address", default="127.0.0.1:8081", show_default=True, help="Where the gateway listens.")
@click.option("--triton-port", metavar="PORT", help="Where Triton listens, on 127.0.0.1.  [default: any free one]")
@click.option("--device", metavar="DEVICE", help="Torch's device.  [default: cpu if FILE trains there, else a GPU's]")
@click.option("--threads", metavar="N", help="Torch's threads in the model process.  [default: torch's choice]")
@click.option("--work", metavar="DIR", help="Keeps Triton's log and files.  [default: a temporary folder]")
def serve(folder: Path, address: str, **given: str | None) -> int:
    """Start Triton and the gateway on what `run` exported to DIR."""
    from multitask_operator.commands import others

    options = {"address": address, **given}
    words = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None]
    return others.serve(folder, [word for pair in words for word in pair])


@cli.command(context_settings=_PASSED_ON, short_help="Ask a gateway: predict --address A TASK field=value …")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def predict(arguments: Sequence[str]) -> int:
    """Ask a gateway; --help shows the client's own options."""
    from multitask_operator.commands import others

    return others.predict(arguments)


@cli.command(short_help="Show the table, and write report.html.")
@click.argument("name", metavar="DIR|NAME")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Of a cluster: the folder for report.json and report.html (default .mtm/cluster/<namespace>/<name>).",
)
@_OUTPUT
@_cluster
def report(name: str, to: Path | None, *, output: str, where: ClusterOptions) -> int:
    """Make DIR/report.html from DIR/report.json, and show the table.

    NAME is a MultiTaskModel of a cluster: a name that no file or folder here has, or any name together with
    --namespace, --context or --kubeconfig. Its report is made from what its stages have reported.
    """
    if where.means(name):
        from multitask_operator.commands.cluster import report as of_cluster
        from multitask_operator.commands.cluster import session

        return session.explain_missing_cluster(
            name, "folder", lambda: of_cluster.report(name, where, to, as_json=output == "json")
        )
    from multitask_operator.commands import others

    _refuse_local(("--to", to), what="a report of a cluster")
    return others.report(Path(name), as_json=output == "json")


@cli.command(short_help="In a cluster: how far a model is.")
@_NAME
@_OUTPUT
@_cluster
def status(name: str, *, output: str, where: ClusterOptions) -> int:
    """Show what the MultiTaskModel NAME's status says, and what its Jobs do."""
    from multitask_operator.commands.cluster import status as command

    return command.status(name, where, as_json=output == "json")


@cli.command(short_help="In a cluster: the one thing that is in the way.")
@_NAME
@_OUTPUT
@_cluster
def explain(name: str, *, output: str, where: ClusterOptions) -> int:
    """Say why the MultiTaskModel NAME is where it is, and what to do next."""
    from multitask_operator.commands.cluster import explain as command

    return command.explain(name, where, as_json=output == "json")


@cli.command(short_help="In a cluster: what a stage printed.")
@_NAME
@click.argument("stage", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the pod ends.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@_cluster
def logs(name: str, stage: str | None, *, follow: bool, tail: int | None, where: ClusterOptions) -> int:
    """Print the log of the newest pod of STAGE of the MultiTaskModel NAME.

    STAGE is a stage (baseline/urgency/seed-17), a kind of which there is one (filter), resolve, clean-up, or a Job.
    Without it: what failed, else what runs, else what ran last.
    """
    from multitask_operator.commands.cluster import logs as command

    return command.logs(name, stage, where, follow=follow, tail=tail)


@cli.command(short_help="Remove the artifacts that no plan uses.")
@_DIR
@click.option("--dry-run", is_flag=True, help="Show what would go; remove nothing.")
@click.option("--forget", metavar="MODEL", help="First forget this model's plan, so that what only it used goes too.")
@_OUTPUT
def gc(folder: Path, *, dry_run: bool, forget: str | None, output: str) -> int:
    """Remove the artifacts in DIR that no current plan uses, and old scratch folders."""
    from multitask_operator.commands import others

    return others.gc(folder, dry_run=dry_run, forget=forget, as_json=output == "json")


@cli.command(name="version")
def show_version() -> int:
    """Print the version."""
    click.echo(f"mtm {version('multitask-operator')}")
    return 0


def _mount(claims: Sequence[str]) -> None:
    """Tell the programs that this process starts where claims are, as a pod tells them. Raises UsageError."""
    from multitask_api.cluster import MOUNTS_VARIABLE

    mounts = {}
    for given in claims:
        name, _, folder = given.partition("=")
        if not name or not folder:
            raise click.UsageError(f"--claim {given}: write NAME=DIR", click.get_current_context())
        if not Path(folder).is_dir():
            raise click.UsageError(f"--claim {given}: {folder} is no folder", click.get_current_context())
        mounts[name] = str(Path(folder).resolve())
    if mounts:
        os.environ[MOUNTS_VARIABLE] = json.dumps(mounts)


def _refuse_local(*options: tuple[str, object], what: str = "a run on this machine") -> None:
    """Raise UsageError for an option that was given and means nothing here."""
    for option, value in options:
        if value:
            raise click.UsageError(f"{option} belongs to {what}", click.get_current_context())


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point: runs a command and ends the process with its status."""
    sys.exit(invoke(argv))


def kubectl_plugin() -> None:
    """The entry point ``kubectl-mtm``, which kubectl runs as ``kubectl mtm``."""
    sys.exit(invoke(program="kubectl mtm"))


def invoke(argv: Sequence[str] | None = None, program: str = "mtm") -> int:
    """Run the command that ``argv`` names; see ``said``."""
    return run_reporting_errors(lambda: int(cli.main(args=argv, prog_name=program, standalone_mode=False) or 0))


def run_reporting_errors(command: Callable[[], int]) -> int:
    """Run a command; its errors become one message and an exit status, never a traceback."""
    from multitask_api.errors import MultitaskError, UserError

    try:
        return command()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error))
        return BAD_INPUT
    except click.UsageError as error:
        hint = f"`{error.ctx.command_path} --help` shows how" if error.ctx else "`mtm --help` shows how"
        return _print_error(error.format_message().rstrip("."), hint, BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return _print_error("interrupted", "run the same command to go on", INTERRUPTED)
    except MultitaskError as error:
        return _print_error(str(error), None, BAD_INPUT if isinstance(error, UserError) else FAILED)
    except BrokenPipeError:
        return FAILED
    except OSError as error:  # a full disk, a folder that cannot be written
        place = f"{error.filename}: " if error.filename else ""
        return _print_error(
            f"{place}{error.strerror or error}", "check the path, its permissions and the disk's room", FAILED
        )
    except Exception as error:  # noqa: BLE001 - the last place; users get a message, the details go to a file
        return _print_error(
            f"{type(error).__name__}: {error}", f"this is a fault of mtm; details in {_keep_traceback()}", FAILED
        )


def _print_error(message: str, hint: str | None, status: int) -> int:
    lines = message.splitlines() or [""]
    text = f"error: {lines[0]}" if len(lines) == 1 else "\n".join([f"error: {len(lines)} problems", *lines])
    click.echo(text + (f"; {hint}" if hint else ""), err=True)
    return status


def _keep_traceback() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="mtm-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return file.name
