"""The product in a real cluster, from ``helm install`` to the last object gone: ``python tests/e2e/in_cluster/run.py``.

It builds what is not built yet (Kubernetes' programs, images), runs the same file on this machine, starts a cluster of
one node in namespaces of its own, and prints every step with its seconds. It needs root. ``--reduced`` leaves out the
support desk and takes a small suite for everything, as CI does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from devcluster import binaries, environment, images, namespaces, objects
from devcluster.one_node import OneNode, lacking, sweep
from e2e.in_cluster import model_file, steps, volumes
from e2e.in_cluster.namespace import Namespace
from support import small_suite as suite

Map = dict[str, Any]
EXAMPLE = steps.ROOT / "examples" / "support-desk"
SMALL_SECONDS, LARGE_SECONDS = 900, 3600
_STORE = "one-node"


@contextmanager
def step(what: str) -> Iterator[list[str]]:
    """Print the step with its seconds once it is done, and what was added to the list that it gives."""
    began, found = time.monotonic(), list[str]()
    yield found
    print(f"{time.monotonic() - began:7.1f} s  {what}{f': {found[-1]}' if found else ''}", flush=True)


def say(line: str) -> None:
    """A line of a step that goes on."""
    print(f"           {line}", flush=True)


# -- on this machine ---------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Build, run the files here, then the same in a cluster."""
    parser = argparse.ArgumentParser(description="Run the product in a real cluster of one node.")
    parser.add_argument("--reduced", action="store_true", help="a small suite instead of the support desk")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.inside:
        return inside(json.loads(arguments.inside.read_text("utf-8")))
    began = time.monotonic()
    if arguments.reduced:
        print("reduced: a suite of four small tasks stands in for the support desk", flush=True)
    with step("what was not built yet is built"):
        plan = build(reduced=arguments.reduced)
    if fault := lacking():
        print(f"the cluster cannot start: it needs {fault}", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="mtm-"))  # short: sockets lie below it
    try:
        plan |= {"folder": str(folder)}
        run_here(folder, plan)
        (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
        with step("the cluster and everything in it have ended"):
            status = _enter(folder / "plan.json")
            sweep()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:7.1f} s  in all, status {status}", flush=True)
    return status


def build(*, reduced: bool) -> Map:
    """Programs and images; a reduced run takes the trainer's environment from a folder of this machine."""
    images.get_programs()
    binaries.build(binaries.ONE_NODE)
    trainer = "thin" if reduced else "trainer"
    made = {name: images.archive(name) for name in ("pause", "operator", trainer)}
    return {
        "images": {found.reference: str(found.path) for found in made.values()},
        **{name: made[name].reference for name in ("pause", "operator")},
        "trainer": made[trainer].reference,
        "podTemplate": environment.pod_template(environment.make()) if reduced else {},
        "example": not reduced,
    }


def run_here(folder: Path, plan: Mapping[str, Any]) -> None:
    """`mtm run` of each file on this machine; the claims' folders get the data."""
    with step("mtm run of the small suite on this machine"):
        small = folder / "desk"
        suite.make_small_suite(small)
        (small / "model.yaml").write_text(yaml.safe_dump(model_file.document(plan["podTemplate"])))
        _run_here(small / "model.yaml", model_file.PVC, small, folder / "here" / "desk")
    if plan["example"]:
        with step("mtm run of examples/support-desk on this machine"):
            large = folder / "support-desk"
            program = [sys.executable, str(EXAMPLE / "generate.py"), "--out", str(large / "data")]
            subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
            _run_here(EXAMPLE / "model.yaml", "support-desk", large, folder / "here" / "support-desk")
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)


def _run_here(file: Path, claim: str, folder: Path, workdir: Path) -> None:
    done = suite.mtm(
        "run", str(file), "--claim", f"{claim}={folder}", "--workdir", str(workdir), "--no-serve", timeout=LARGE_SECONDS
    )
    assert done.exit_code == 0, done.stdout + done.stderr


def _enter(plan: Path) -> int:
    inner = namespaces.command([sys.executable, str(Path(__file__).resolve()), "--inside", str(plan)])
    return subprocess.run(inner, check=False).returncode


# -- in the cluster ----------------------------------------------------------------------------------------------------


def inside(plan: Mapping[str, Any]) -> int:
    """Everything that is done in the cluster."""
    folder = Path(plan["folder"])
    store = images.folder().parent / _STORE
    archives = {reference: Path(path) for reference, path in plan["images"].items()}
    with OneNode(folder / "node", store, archives, plan["pause"]) as node, node.client.rest() as rest:
        say(f"{node.seconds:.1f} s: the node is ready")
        team = Namespace(node.client, rest, "team")
        try:
            with step("helm install: the operator is ready"):
                steps.install(node.client, plan["operator"], plan["trainer"])
                objects.namespace(rest, team.name)
            if plan["example"]:
                support_desk(team, folder)
            small_suite(node, team, folder, plan["podTemplate"])
        except BaseException:
            print(steps.describe_state(node.client, team), file=sys.stderr)
            raise
    return 0


def support_desk(team: Namespace, folder: Path) -> None:
    """The example as it is: applied, trained, judged, and the same as on this machine."""
    name = "support-desk"
    team.apply(stdin=volumes.persistent_volume(team.name, name, _owned(folder / name)))
    with step("kubectl apply --server-side -f examples/support-desk: Trained"):
        team.apply("-f", str(EXAMPLE))
        team.wait_until_trained(name, say, LARGE_SECONDS)
    _show(team, name)
    with step("mtm report: the same figures as mtm run of the same file") as found:
        report = team.report(name, folder / "reports" / name)
        found.append(steps.assert_same_figures(folder / "here" / name / "report.json", report))
    with step("every stage ran once") as found:
        found.append(f"{steps.assert_each_stage_ran_once(team, name)} stages")
    with step("kubectl delete mtm support-desk: nothing owned is left, the artifacts stay (retain: true)"):
        steps.delete(team, name, SMALL_SECONDS)
        assert list((folder / name / "artifacts" / "stages").iterdir())


def small_suite(node: OneNode, team: Namespace, folder: Path, pod_template: Mapping[str, Any]) -> None:
    """A small suite: trained, a task added, a pod killed, a stage on two nodes, deletion."""
    claim, document = _owned(folder / "desk"), model_file.document(pod_template)
    pvc = volumes.persistent_volume_claim(team.name, model_file.PVC)
    team.apply(stdin=[volumes.persistent_volume(team.name, model_file.PVC, claim), pvc])
    with step("kubectl apply of the small suite: Trained"):
        team.apply(stdin=document)
        team.wait_until_trained("desk", say, SMALL_SECONDS)
    _show(team, "desk")
    with step("mtm report: the same figures as mtm run of the same file") as found:
        report = team.report("desk", folder / "reports" / "desk")
        found.append(steps.assert_same_figures(folder / "here" / "desk" / "report.json", report))
    with step("every stage ran once") as found:
        found.append(f"{steps.assert_each_stage_ran_once(team, 'desk')} stages")

    before = {job["metadata"]["name"] for job in team.jobs("desk")}
    with step("a task is added, and the trainer of the mixture killed in mid-stage: Trained"):
        team.apply(stdin=model_file.with_another_task(document, claim))
        _owned(claim)
        steps.kill_after_checkpoint(node, team, "desk", "mixture/classification", claim / "artifacts", SMALL_SECONDS)
        team.wait_until_trained("desk", say, SMALL_SECONDS)
    with step("only what changed has run") as found:
        found.append(steps.assert_only_changes_ran(team, "desk", before))
    with step("the killed stage has resumed") as found:
        found.append(steps.assert_resumed(team, "desk", "mixture/classification"))
    with step("a model with training.nodes: 2: Trained") as found:
        team.apply(stdin=model_file.on_two_nodes(document))
        team.wait_until_trained("pair", say, SMALL_SECONDS)
        found.append(steps.assert_ran_on_two_nodes(team, "pair"))

    with step("kubectl delete mtm desk: nothing owned is left, the artifacts stay (retain: true)"):
        steps.delete(team, "desk", SMALL_SECONDS)
        assert list((claim / "artifacts" / "stages").iterdir())
    with step("kubectl delete mtm pair: nothing owned is left, the artifacts are gone (retain: false)"):
        steps.delete(team, "pair", SMALL_SECONDS)
        left = [path for path in (claim / "pair").rglob("*") if path.is_file()]
        assert not left, left


def _show(team: Namespace, model: str) -> None:
    """What people see."""
    print(team.client.kubectl("get", "mtm", "--namespace", team.name).stdout, end="", flush=True)
    print(team.mtm("status", model), flush=True)


def _owned(folder: Path) -> Path:
    """The folder, as storage for pods of another user: a local volume's files get the pods' group, not its owner."""
    subprocess.run(["chgrp", "-R", "10001", str(folder)], check=True)
    subprocess.run(["chmod", "-R", "g+rwX", str(folder)], check=True)
    return folder


if __name__ == "__main__":
    os.chdir(steps.ROOT)
    raise SystemExit(main())
