"""The product in a real cluster, from ``helm install`` to the last object gone: ``python tests/e2e/in_cluster/run.py``.

It builds what is missing (Kubernetes, images), runs the same file on this machine, starts a cluster of one node in its
own Linux namespaces, and prints every step with its seconds. It needs root. ``--reduced`` leaves out the examples and
runs the small suite, as CI does; ``--example NAME`` runs that example alone. In both, pods take the environment of
trainer and servers from a folder of this machine, which spares the large images.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from devcluster import binaries, images, namespaces, objects
from devcluster.image_build import environment
from devcluster.one_node import OneNode, missing_requirements, remove_stale_cgroups
from e2e.in_cluster import model_file, preflight, serving, steps, tutorial, under_load, upgrade, volumes
from e2e.in_cluster.namespace import Namespace
from e2e.in_cluster.output import print_line, step
from support import small_suite as suite

Map = dict[str, Any]
#: Each with the program that writes its data.
EXAMPLES = {"support-desk": "generate.py", "one-plus-n": "make_data.py"}
LARGE_SECONDS = 3600
_STORE = "one-node"


# -- on this machine ---------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Build, run the files on this machine, then in a cluster."""
    parser = argparse.ArgumentParser(description="Run the product in a real cluster of one node.")
    parser.add_argument("--reduced", action="store_true", help="the small suite without the examples")
    parser.add_argument("--example", choices=EXAMPLES, help="this example without the small suite")
    parser.add_argument("--tutorial", action="store_true", help="follow docs/tutorial.md instead, and write its output")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.inside:
        return run_in_cluster(json.loads(arguments.inside.read_text("utf-8")))
    began = time.monotonic()
    with step("the host can run a cluster"):
        problems = find_problems()
    if problems:
        print("\n".join(f"this host cannot run the cluster: {each}" for each in problems), file=sys.stderr)
        return 1
    if arguments.reduced:
        print("reduced: a suite of four small tasks stands in for the examples", flush=True)
    examples = [arguments.example] if arguments.example else [] if arguments.reduced else list(EXAMPLES)
    with step("programs and images are built"):
        plan = build(thin=arguments.reduced or arguments.example is not None)
    plan |= {"tutorial": arguments.tutorial, "examples": examples, "small": arguments.example is None}
    folder = Path(tempfile.mkdtemp(prefix="mtm-"))  # short: sockets lie below it
    try:
        plan |= {"folder": str(folder)}
        if not arguments.tutorial:
            run_locally(folder, plan)
        (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
        with step("the cluster and everything in it have ended"):
            status = _enter(folder / "plan.json")
            remove_stale_cgroups()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:7.1f} s  in all, status {status}", flush=True)
    return status


def find_problems() -> list[str]:
    """What this host lacks, before anything is built: a build may take an hour."""
    problems = preflight.host_problems()
    if problems:
        return problems
    images.get_programs()  # Debian packages: seconds
    missing = missing_requirements(built=False)
    return [f"it needs {missing}"] if missing else preflight.kernel_problems()


def build(*, thin: bool) -> Map:
    """Programs and images; with ``thin`` the pods' environment is a folder of this machine."""
    binaries.build(binaries.ONE_NODE)
    trainer, server = ("thin", "thin") if thin else ("trainer", "triton")
    archives = {name: images.archive(name) for name in dict.fromkeys(("pause", "operator", "gateway", trainer, server))}
    chart = {"image": "operator", "trainerImage": trainer, "servingImage": server, "gatewayImage": "gateway"}
    folders = environment.build(with_triton=True) if thin else None
    return {
        "images": {image.reference: str(image.path) for image in archives.values()},
        "pause": archives["pause"].reference,
        "chart": {value: archives[name].reference for value, name in chart.items()},
        "podTemplate": environment.pod_template(folders) if folders else {},
        "serverPodTemplate": environment.server_pod_template(folders) if folders else {},
    }


def run_locally(folder: Path, plan: Mapping[str, Any]) -> None:
    """`mtm run` of each file on this machine; the data is written to the folders of the PVCs."""
    if plan["small"]:
        with step("mtm run of the small suite on this machine"):
            small = folder / "desk"
            suite.make_small_suite(small)
            (small / "model.yaml").write_text(yaml.safe_dump(small_document(plan)))
            _mtm_run(small / "model.yaml", model_file.PVC, small, folder / "here" / "desk")
    for name in plan["examples"]:
        with step(f"mtm run of examples/{name} on this machine"):
            program = [sys.executable, str(_example(name) / EXAMPLES[name]), "--out", str(folder / name / "data")]
            subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
            _mtm_run(_example(name), name, folder / name, folder / "here" / name)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)


def small_document(plan: Mapping[str, Any]) -> Map:
    """The small suite's resource."""
    return model_file.document(plan["podTemplate"], plan["serverPodTemplate"])


def _example(name: str) -> Path:
    return steps.ROOT / "examples" / name


def _mtm_run(file: Path, pvc: str, folder: Path, workdir: Path) -> None:
    done = suite.mtm(
        "run", str(file), "--claim", f"{pvc}={folder}", "--workdir", str(workdir), "--no-serve", timeout=LARGE_SECONDS
    )
    assert done.exit_code == 0, done.stdout + done.stderr


def _enter(plan: Path) -> int:
    inner = namespaces.command([sys.executable, str(Path(__file__).resolve()), "--inside", str(plan)])
    return subprocess.run(inner, check=False).returncode


# -- in the cluster ----------------------------------------------------------------------------------------------------


def run_in_cluster(plan: Mapping[str, Any]) -> int:
    """All steps in the cluster."""
    folder = Path(plan["folder"])
    store = images.folder().parent / _STORE
    archives = {reference: Path(path) for reference, path in plan["images"].items()}
    with OneNode(folder / "node", store, archives, plan["pause"]) as node, node.client.rest() as rest:
        print_line(f"{node.seconds:.1f} s: the node is ready")
        namespace = Namespace(node.client, rest, "team")
        if plan["tutorial"]:
            with step(f"docs/{tutorial.PAGE.name}, word for word"):
                tutorial.follow(node, folder, _with_pod_templates(plan), plan["chart"]["gatewayImage"])
            return 0
        try:
            objects.namespace(rest, namespace.name)
            if plan["small"]:
                with step("helm install of the first chart with gateways: operator and gateways are ready"):
                    steps.install_or_upgrade(node.client, upgrade.shipped_chart(folder), steps.chart_values(plan))
            else:
                with step("helm install: operator and gateways are ready"):
                    steps.install_or_upgrade(node.client, steps.CHART, _with_pod_templates(plan))
            for name in plan["examples"]:
                example(namespace, folder, name)
            if plan["small"]:
                small_suite(node, namespace, folder, plan)
        except BaseException:
            print(steps.describe_state(node.client, namespace), file=sys.stderr)
            raise
    return 0


def _with_pod_templates(plan: Mapping[str, Any]) -> Map:
    """Values of the chart that give all pods the environment of thin images."""
    return steps.chart_values(plan) | {
        "stagePods": {"podTemplate": plan["podTemplate"]},
        "serving": {"podTemplate": plan["serverPodTemplate"]},
    }


def example(namespace: Namespace, folder: Path, name: str) -> None:
    """An example, unchanged: applied, trained, evaluated, with the results of the run on this machine."""
    namespace.apply(stdin=volumes.persistent_volume(namespace.name, name, volumes.let_pods_write(folder / name)))
    with step(f"kubectl apply --server-side -f examples/{name}: Trained"):
        namespace.apply("-f", str(_example(name)))
        namespace.wait_until_trained(name, print_line, LARGE_SECONDS)
    _show(namespace, name)
    with step("mtm report: the same figures as mtm run of the same file") as results:
        report = namespace.report(name, folder / "reports" / name)
        results.append(steps.assert_same_figures(folder / "here" / name / "report.json", report))
    with step("every stage ran once") as results:
        results.append(f"{steps.assert_each_stage_ran_once(namespace, name)} stages")
    with step("the servers answer") as results:
        results.append(serving.wait_until_served(namespace, name, print_line, steps.SMALL_SECONDS))
    with step(f"kubectl delete mtm {name}: nothing owned is left, the artifacts stay (retain: true)"):
        steps.delete(namespace, name, steps.SMALL_SECONDS)
        assert list((folder / name / "artifacts" / "stages").iterdir())


def small_suite(node: OneNode, namespace: Namespace, folder: Path, plan: Mapping[str, Any]) -> None:
    """A small suite: trained through an upgrade, served, changed under load; two nodes; deletion."""
    pvc_folder, document = volumes.let_pods_write(folder / "desk"), small_document(plan)
    pvc = volumes.persistent_volume_claim(namespace.name, model_file.PVC)
    namespace.apply(stdin=[volumes.persistent_volume(namespace.name, model_file.PVC, pvc_folder), pvc])
    with step("kubectl apply of the small suite, and a newer operator in the middle of the run: Trained"):
        namespace.apply(stdin=document)
        steps.wait_until_baselines_run(namespace, "desk", steps.SMALL_SECONDS)
        upgrade.install_release(node.client, newer_by=1)
        namespace.wait_until_trained("desk", print_line, steps.SMALL_SECONDS)
    _show(namespace, "desk")
    with step("mtm report: the same figures as mtm run of the same file") as results:
        report = namespace.report("desk", folder / "reports" / "desk")
        results.append(steps.assert_same_figures(folder / "here" / "desk" / "report.json", report))
    with step("every stage ran once") as results:
        results.append(f"{steps.assert_each_stage_ran_once(namespace, 'desk')} stages")

    with step("the servers answer") as results:
        results.append(serving.wait_until_served(namespace, "desk", print_line, steps.SMALL_SECONDS))
    with step("helm test") as results:
        results.append(serving.helm_test(node.client))
    with step("grpcurl through the gateway's Service") as results:
        results.append(serving.ask_with_grpcurl(namespace, folder, "team/desk/urgency"))
    under_load.change(node, namespace, folder, plan, document)

    with step("a model with training.nodes: 2: Trained") as results:
        namespace.apply(stdin=model_file.on_two_nodes(document))
        namespace.wait_until_trained("pair", print_line, steps.SMALL_SECONDS)
        results.append(steps.assert_ran_on_two_nodes(namespace, "pair"))

    with step("kubectl delete mtm desk: nothing owned is left, the artifacts stay (retain: true)"):
        steps.delete(namespace, "desk", steps.SMALL_SECONDS)
        assert list((pvc_folder / "artifacts" / "stages").iterdir())
    with step("kubectl delete mtm pair: nothing owned is left, the artifacts are gone (retain: false)"):
        steps.delete(namespace, "pair", steps.SMALL_SECONDS)
        left = [path for path in (pvc_folder / "pair").rglob("*") if path.is_file()]
        assert not left, left


def _show(namespace: Namespace, model: str) -> None:
    """Print what `kubectl get` and `mtm status` show."""
    print(namespace.client.kubectl("get", "mtm", "--namespace", namespace.name).stdout, end="", flush=True)
    print(namespace.mtm("status", model), flush=True)


if __name__ == "__main__":
    os.chdir(steps.ROOT)
    raise SystemExit(main())
