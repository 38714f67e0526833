"""``mtm study``, as users call it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from multitask_operator.cli.options import CLAIM, DEVICE, OUTPUT, WORKDIR, mount_claims, repeated


@click.command(short_help="Compare ways to train: arms of equal cost, over seeds.")
@click.argument("file", type=click.Path(path_type=Path))
@WORKDIR
@CLAIM
@click.option("--plan", "plan_only", is_flag=True, help="Show the arms, what is cached, and the cost. Nothing is run.")
@DEVICE
@OUTPUT
def study(file: Path, workdir: Path | None, claims: Sequence[str], *, plan_only: bool, device: str, output: str) -> int:
    """Run the arms of the Study in FILE, each with several seeds, and write a page of what they support.

    Arms share the work folder of the model: what several of them need is run once, and what `mtm run` has made is used.
    After Ctrl-C or a kill, run it again to continue. Nothing of it is served. FILE may be a folder with a study.yaml.

    Exit status: 0 done, 1 an arm failed, 2 wrong input, 130 interrupted.
    """
    mount_claims(claims)
    file = file / "study.yaml" if file.is_dir() else file
    options = [*repeated("--workdir", [str(workdir)] if workdir else []), *repeated("--claim", claims)]
    options += ["--device", device] if device != "auto" else []
    if plan_only:
        from multitask_operator.commands.study import plan

        return plan.plan(file, workdir, as_json=output == "json", device_option=device, options=options)
    from multitask_operator.commands.study import run

    return run.study(file, workdir, as_json=output == "json", device=device, options=options)
