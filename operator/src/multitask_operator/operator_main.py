"""``mtm-operator``: brings every MultiTaskModel of a cluster to what its spec says, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click

from multitask_api.errors import UserError
from multitask_operator.app import Operator
from multitask_operator.reconciler import reconcile
from multitask_operator.settings import described, option, read_settings

BAD_INPUT = 2


async def run(make_operator: Callable[[], Operator]) -> None:
    """Run an operator, made in the event loop, until SIGTERM or SIGINT."""
    operator = make_operator()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, operator.stop)
    await operator.run()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Instead of the pod's own service account.")
@click.option("--context", help="In the kubeconfig; default: its current one.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="On stderr."
)
def command(kubeconfig: Path | None, context: str | None, log_level: str, **arguments: str | None) -> None:
    """Bring every MultiTaskModel of a cluster to what its spec says, until SIGTERM.

    Each option has an environment variable, named in brackets; the option wins.
    """
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        settings = read_settings(arguments, os.environ)
        asyncio.run(run(lambda: Operator(settings, reconcile, kubeconfig, context)))
    except UserError as error:
        for line in str(error).splitlines():
            click.echo(f"mtm-operator: {line}", err=True)
        sys.exit(BAD_INPUT)


for _name, _help in described():
    command.params.append(click.Option([option(_name)], help=_help))


def main() -> None:
    """The console script."""
    command(prog_name="mtm-operator")
