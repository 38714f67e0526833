"""``mtm serve``, ``mtm predict`` and ``mtm export``: what is done on one machine with what ``mtm run`` exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from multitask_operator.cli.options import DIR

#: For a command whose options another program reads, --help among them.
_PASS_THROUGH = {"ignore_unknown_options": True, "help_option_names": []}


@click.command(short_help="Start Triton and the gateway on what `run` exported.")
@DIR
@click.option("--address", default="127.0.0.1:8081", show_default=True, help="Where the gateway listens.")
@click.option("--triton-port", metavar="PORT", help="Port of Triton on 127.0.0.1.  [default: any free one]")
@click.option("--device", metavar="DEVICE", help="Torch device.  [default: cpu if the model trains there, else a GPU]")
@click.option("--threads", metavar="N", help="Torch threads of the model process.  [default: torch's choice]")
@click.option("--work", metavar="DIR", help="Folder for Triton's log and files.  [default: a temporary one]")
def serve(folder: Path, **options: str | None) -> int:
    """Start Triton and the gateway on what `run` exported to DIR."""
    from multitask_operator.commands import serve as command

    given = {f"--{name.replace('_', '-')}": value for name, value in options.items() if value is not None}
    return command.serve(folder, [word for option in given.items() for word in option])


@click.command(short_help="Write the adapters of what `run` exported for PEFT, vLLM or Triton with vLLM.")
@DIR
@click.option(
    "--to", "target", type=click.Choice(["peft", "vllm", "triton-vllm"]), required=True, help="What the files are for."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where a folder per revision is put.",
)
@click.option("--base", metavar="NAME", help="Name or path of the base where it is served.  [default: that in DIR]")
def export(folder: Path, target: str, out: Path, base: str | None) -> int:
    """Write the adapters of what `run` exported to DIR into FOLDER, each as a folder of PEFT.

    vllm also writes the arguments of `vllm serve`, triton-vllm a model repository for Triton's vLLM backend.
    """
    from multitask_operator.commands import export as command

    return command.export(folder, target, out, base)


@click.command(context_settings=_PASS_THROUGH, short_help="Send a request: predict --address A TASK field=value …")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def predict(arguments: Sequence[str]) -> int:
    """Send a request to a gateway; --help shows the client's own options."""
    from multitask_operator.commands import predict as command

    return command.predict(arguments)
