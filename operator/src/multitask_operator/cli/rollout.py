"""``mtm rollout …`` and ``mtm rollback``, as users call them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from multitask_operator.cli.options import NAME, OUTPUT, cluster_options

if TYPE_CHECKING:
    from multitask_operator.commands.cluster.options import ClusterOptions

REVISION = click.option("--revision", metavar="REVISION", help="The revision that is meant.  [default: see above]")


@click.group(short_help="In a cluster: follow and steer a rollout.")
def rollout() -> None:
    """Follow and steer how traffic moves to a new revision.

    Orders are written as annotations of the MultiTaskModel NAME: they change nothing in its spec, so Git does not undo
    them. The operator carries each of them out once.
    """


@rollout.command(name="status")
@NAME
@OUTPUT
@cluster_options
def rollout_status(name: str, *, output: str, cluster: ClusterOptions) -> int:
    """Show which revision answers which task, the step under way, and what it waits for."""
    from multitask_operator.commands.cluster import rollout_status as command

    return command.status(name, cluster, as_json=output == "json")


@rollout.command()
@NAME
@OUTPUT
@cluster_options
def pause(name: str, *, output: str, cluster: ClusterOptions) -> int:
    """Keep the traffic as it is until `mtm rollout resume`.

    Tasks that turn out to be worse still go back to their old revision.
    """
    return _order(name, cluster, "pause", None, output)


@rollout.command()
@NAME
@OUTPUT
@cluster_options
def resume(name: str, *, output: str, cluster: ClusterOptions) -> int:
    """End a pause, whether a person or a step of the rollout began it.

    Tasks that were Inconclusive are measured again.
    """
    return _order(name, cluster, "resume", None, output)


@rollout.command()
@NAME
@REVISION
@OUTPUT
@cluster_options
def promote(name: str, *, revision: str | None, output: str, cluster: ClusterOptions) -> int:
    """Give the new revision all traffic without the rest of its steps.

    It still has to have the servers for it, and tasks that have failed keep their old revision. With --revision also
    one that waits for room: the tasks in its way move to the revision that serves now.
    """
    return _order(name, cluster, "promote", revision, output)


@rollout.command()
@NAME
@OUTPUT
@cluster_options
def abort(name: str, *, output: str, cluster: ClusterOptions) -> int:
    """Give all tasks back to their old revision. The new one is not tried again until `mtm rollout retry`."""
    return _order(name, cluster, "abort", None, output)


@rollout.command()
@NAME
@REVISION
@OUTPUT
@cluster_options
def retry(name: str, *, revision: str | None, output: str, cluster: ClusterOptions) -> int:
    """Try a rejected revision again, from its verification on.

    Default: the revision that was rejected last. Of one that serves most tasks, only the tasks are tried that it was
    rejected for.
    """
    return _order(name, cluster, "retry", revision, output)


@click.command(short_help="In a cluster: serve an earlier revision again.")
@NAME
@click.argument("revision", required=False)
@click.option("--undo", is_flag=True, help="End the rollback: the newest revision is rolled out again.")
@OUTPUT
@cluster_options
def rollback(name: str, revision: str | None, *, undo: bool, output: str, cluster: ClusterOptions) -> int:
    """Serve REVISION instead of the newest one, at once and until --undo.

    Default: the revision that served before the latest rollout. A revision whose servers are gone gets new ones first.
    To keep a revision in Git, set spec.serving.pinnedRevision.
    """
    if undo and revision is not None:
        raise click.UsageError("--undo takes no revision", click.get_current_context())
    return _order(name, cluster, "undo" if undo else "rollback", revision, output)


def _order(name: str, cluster: ClusterOptions, action: str, revision: str | None, output: str) -> int:
    from multitask_operator.commands.cluster import rollout_orders

    return rollout_orders.order(name, cluster, action, revision, as_json=output == "json")
