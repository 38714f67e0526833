"""``mtm report NAME``: report.json and report.html of the run in a cluster, from what its stages reported."""

from __future__ import annotations

import time
from pathlib import Path

from multitask_operator.commands.cluster.asking import Where, ask
from multitask_operator.commands.cluster.looking import look
from multitask_operator.commands.cluster.picture import picture
from multitask_operator.commands.plan import done_of
from multitask_operator.commands.run import write_report
from multitask_operator.commands.showing import print_json, qualification, say
from multitask_operator.local.workdir import Workdir
from multitask_operator.report.build import build_report


def report(name: str, where: Where, to: Path | None, *, as_json: bool) -> int:
    """Write the report into ``to``; of a run that is not done, as locally, report.partial.json and its page."""
    raw = ask(where, lambda client, namespace: look(client, namespace, name, time.time()))
    shown = picture(raw, time.time())
    graph = shown.plan.graph
    found = build_report(shown.model, graph, shown.ran)
    place = Workdir(to or Path(".mtm") / "cluster" / raw.namespace / name)
    place.path.mkdir(parents=True, exist_ok=True)
    write_report(place, found, whole=graph.finished)
    if as_json:
        print_json(found.model_dump(mode="json", by_alias=True))
        return 0
    if any(task.verdict for task in found.tasks):
        qualification(found)
    if graph.finished:
        say(f"report: {place.report_page}")
    else:
        say(f"{done_of(graph)} stages are done; so far: {place.partial_report[1]}")
        say(f"next: mtm explain {name} -n {raw.namespace}")
    return 0
