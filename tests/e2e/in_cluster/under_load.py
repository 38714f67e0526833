"""What is done while requests come at constant rates; none may fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devcluster.one_node import OneNode
from devcluster.processes import until
from e2e.in_cluster import model_file, serving, steps, upgrade, volumes
from e2e.in_cluster.namespace import Namespace
from e2e.in_cluster.output import print_line, step
from e2e.in_cluster.routing_rule import RoutingRule
from e2e.in_cluster.steps import SMALL_SECONDS
from e2e.in_cluster.traffic import Traffic

Map = dict[str, Any]
#: Requests a second: enough for a step of a rollout, and one task that is seldom called.
UNARY, STREAMS = {"team/desk/urgency": 3.0, "team/desk/topic": 0.1}, {"team/desk/reply": 1.0}
LABELLED = "mood"
SERVERS, OPERATOR_KILLS = 2, 2
#: An image that no node has: pods that got it would never start.
OTHER_IMAGE = "multitask-serving:of-another-release"
#: So long nothing may happen after an upgrade: the operator looks at every model as soon as it is ready.
_QUIET_SECONDS = 30


def change(node: OneNode, namespace: Namespace, folder: Path, plan: Mapping[str, Any], document: Map) -> None:
    """Upgrades, another revision, faults and rollbacks of the model ``desk``, while requests come."""
    traffic = Traffic(namespace, plan["chart"]["gatewayImage"], unary=UNARY, streams=STREAMS)
    traffic.start()
    with RoutingRule(namespace, folder / "desk" / "artifacts" / "stages") as rule:
        upgrade_operator(node, namespace, plan)
        larger = add_task(node, namespace, folder, document)
        with step("no request has failed through upgrade and rollout") as results:
            results.append(traffic.assert_nothing_failed())
        upgrade_chart(node, namespace, plan, traffic)
        survive_faults(node, namespace, traffic)
        turn_back(namespace, folder, larger, traffic)
        with step("no shared model was routed that may not answer") as results:
            results.append(rule.assert_kept())
    with step("mtm gc desk: what no kept revision uses is removed, and the tasks answer") as results:
        freed = namespace.mtm("gc", "desk").splitlines()[-1]
        results.append(f"{freed}; {traffic.assert_nothing_failed()}")
    print_line(json.dumps(traffic.stop()["answers"]))


def upgrade_operator(node: OneNode, namespace: Namespace, plan: Mapping[str, Any]) -> None:
    """A newer operator, whose stages compute something else, and back."""
    with step("a newer operator with other images after the run: nothing is trained or rolled out") as results:

        def install_release() -> None:
            upgrade.install_release(node.client, newer_by=2, serving_image=OTHER_IMAGE)

        results.append(upgrade.assert_nothing_happens(namespace, "desk", install_release, _QUIET_SECONDS))
    with step("back to this release"):
        upgrade.install_release(node.client, newer_by=0, serving_image=plan["chart"]["servingImage"])


def add_task(node: OneNode, namespace: Namespace, folder: Path, document: Map) -> Map:
    """A task more: trained and rolled out while the trainer and the operator are killed; the larger resource."""
    pvc_folder = folder / "desk"
    before = {job["metadata"]["name"] for job in namespace.jobs("desk")}
    with step("a task is added, and the trainer of the mixture killed in mid-stage: Trained"):
        larger = model_file.with_another_task(document, pvc_folder)
        namespace.apply(stdin=larger)
        volumes.let_pods_write(pvc_folder)
        steps.kill_after_checkpoint(
            node, namespace, "desk", "mixture/classification", pvc_folder / "artifacts", SMALL_SECONDS
        )
        namespace.wait_until_trained("desk", print_line, SMALL_SECONDS)
    with step("only what changed has run") as results:
        results.append(steps.assert_only_changes_ran(namespace, "desk", before))
    with step("the killed stage has resumed") as results:
        results.append(steps.assert_resumed(namespace, "desk", "mixture/classification"))
    with step(f"its revision is rolled out, and the operator killed {OPERATOR_KILLS} times meanwhile") as results:
        kills = iter(range(OPERATOR_KILLS))

        def kill_operator(line: str) -> None:
            print_line(line)
            if line.startswith("step ") and next(kills, None) is not None:
                serving.kill_operator(node, namespace.client)

        results.append(serving.wait_until_served(namespace, "desk", kill_operator, SMALL_SECONDS))
    with step("the new task answers") as results:
        results.append(serving.ask_with_grpcurl(namespace, folder, "team/desk/temper"))
        serving.wait_until_old_servers_are_gone(namespace, "desk", SERVERS, SMALL_SECONDS)
    return larger


def upgrade_chart(node: OneNode, namespace: Namespace, plan: Mapping[str, Any], traffic: Traffic) -> None:
    """The chart of this checkout over the older one, with gateways and operator replaced: no request fails."""
    values, before = steps.chart_values(plan), serving.gateway_uids(node.client)
    values["podAnnotations"] = values["gateway"]["podAnnotations"] = {"replaced-by": "the upgrade"}
    what = "helm upgrade to this chart: gateways and operator are replaced, nothing is trained or rolled out"
    with step(what) as results:

        def install_chart() -> None:
            steps.install_or_upgrade(node.client, steps.CHART, values)
            serving.wait_until_replaced(node.client, before, 240)

        results.append(upgrade.assert_nothing_happens(namespace, "desk", install_chart, _QUIET_SECONDS))
        results.append(f"{results[-1]}; {traffic.assert_nothing_failed()}")


def survive_faults(node: OneNode, namespace: Namespace, traffic: Traffic) -> None:
    """What may happen to servers: no request fails."""
    with step("a server is killed") as results:
        serving.kill_server(node, namespace, "desk", SMALL_SECONDS)
        results.append(traffic.assert_nothing_failed())
    with step("a server is evicted") as results:
        serving.evict_server(namespace, "desk", SMALL_SECONDS)
        results.append(traffic.assert_nothing_failed())


def turn_back(namespace: Namespace, folder: Path, document: Map, traffic: Traffic) -> None:
    """A rollback by a person, and two that the operator does by itself; no request fails."""
    with step("mtm rollback desk, and --undo") as results:
        results.append(serving.roll_back_and_forth(namespace, "desk", SMALL_SECONDS))
        serving.wait_until_served(namespace, "desk", print_line, SMALL_SECONDS)
        traffic.assert_nothing_failed()
    with step("a revision that is slow only under live traffic goes back by itself, and is not tried again") as results:
        stable, faults = serving.answering(namespace, "desk"), {"urgency": {"seconds": 10}}
        # What the suite allows on a busy machine would hide it.
        namespace.apply(stdin=model_file.with_faulty_servers(document, faults, latency_ratio=5))
        results.append(serving.wait_until_rolled_back(namespace, "desk", "urgency", SMALL_SECONDS))
        serving.assert_not_tried_again(namespace, "desk", _QUIET_SECONDS / 2)
        traffic.assert_nothing_failed()
    with step("its change is taken back: all tasks return to the revision before") as results:
        # Two revisions have servers at most, and the slow one is the only one that could answer the other tasks.
        namespace.apply(stdin=document)
        until(f"{stable} answers", lambda: serving.answering(namespace, "desk") == stable, SMALL_SECONDS)
        results.append(serving.wait_until_served(namespace, "desk", print_line, SMALL_SECONDS))
        traffic.assert_nothing_failed()
    with step("a revision whose answers are wrong by labels that come later goes back by itself") as results:
        full = f"{namespace.name}/desk/{LABELLED}"
        label = serving.label_of(namespace, folder, full)
        labelled = Traffic(namespace, traffic.image, "labels", unary={full: 3.0}, labels={full: label})
        labelled.start()
        namespace.apply(stdin=model_file.with_faulty_servers(document, {LABELLED: {"wrong": True}}))
        results.append(serving.wait_until_rolled_back(namespace, "desk", LABELLED, SMALL_SECONDS))
        assert "labelled" in results[-1], results
        labelled.assert_nothing_failed()
        labelled.stop()
        traffic.assert_nothing_failed()
