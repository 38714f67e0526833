"""Seconds of the baselines of examples/lora: one after the other, side by side, and together on one base.

    python tests/benchmarks/baselines_together.py --out FOLDER [--steps 200] [--seeds 2] [--device cuda --base URI] …

The stages are those of ``mtm run``, each program a process of its own: *one after the other* with all threads, *side by
side* ``--processes`` at once that share the threads, *together* one process with all threads. All train the same number
of steps, validate as often, write what serves, and answer their test rows. Seconds are of the clock, from the start of
the first process to the end of the last; *of steps* are those that the runs count as theirs, summed. FOLDER gets
``page.md``; prepared rows and the base stay there.
"""

from __future__ import annotations

import argparse
import gzip
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask_api.stage_io.manifest import Manifest, StageOrder
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import BaseResult, TrainResult
from multitask_api.stages import ArtifactKey, Graph, Node, artifact_filename, build
from multitask_api.stages.versions import VERSIONS
from multitask_operator.local import model_file
from multitask_operator.local.workdir import Workdir
from multitask_operator.planner.orders import stage_order
from multitask_trainer.storage.files import write_atomically

EXAMPLES = Path(__file__).parents[2] / "examples"
ARMS = ("one after the other", "side by side", "together")


@dataclass(frozen=True)
class Setting:
    """What all arms share."""

    folder: Path
    data: Path
    threads: int
    device: str

    def order(self, graph: Graph, node: Node, arm: str = "shared", *, threads: int = 1) -> Path:
        """Write the order of a stage; prepared rows and the base are in the folder ``shared``."""

        def artifact(key: ArtifactKey) -> str:
            owner = arm if key[0] == node.name else "shared"
            return str(self.folder / owner.replace(" ", "-") / artifact_filename(key))

        key = (node.name, node.digest or "")
        order = stage_order(
            "benchmark",
            graph,
            node,
            artifact,
            work=str(self.folder / arm.replace(" ", "-") / "work" / artifact_filename(key)),
            threads=threads,
            device=self.device,
            data_root=str(self.data),
        )
        path = self.folder / arm.replace(" ", "-") / "orders" / f"{artifact_filename(key)}.json"
        write_atomically(path, order.model_dump_json(by_alias=True))
        return path


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=200, help="for validation, and for testing, of each task")
    parser.add_argument("--seeds", type=int, default=2, help="of each of the four tasks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="side by side")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--base", default="builtin://tiny", help="URI of the base model")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--arms", default=",".join(ARMS))
    arguments = parser.parse_args()
    folder = arguments.out.resolve()
    setting = Setting(folder, folder / "examples" / "lora", arguments.threads, arguments.device)
    graph = _graph(setting, arguments)
    nodes = graph.of_kind("baseline")
    what = f"{len(nodes)} baselines of {arguments.steps} steps; {arguments.device}, {arguments.threads} threads"
    lines = [
        f"{what}, base of {_base_weights(setting, graph):,} weights; {platform.processor() or platform.machine()}",
        f"{'':22}{'seconds':>9}{'of the first':>14}{'CPU seconds':>13}{'of steps':>10}{'tokens/s':>10}",
    ]
    print("\n".join(lines), flush=True)
    first = None
    for arm in arguments.arms.split(","):
        cpu = _cpu_seconds()
        seconds = _run(arm, setting, graph, nodes, arguments.steps, arguments.processes)
        cpu = _cpu_seconds() - cpu
        results = _results(setting, nodes, arm)
        steps = sum(result.training_seconds for result in results.values())
        tokens = sum(result.tokens for result in results.values())
        first = first or seconds
        lines.append(f"{arm:22}{seconds:9.1f}{seconds / first:14.2f}{cpu:13.1f}{steps:10.1f}{tokens / seconds:10,.0f}")
        print(lines[-1], flush=True)
    if len(arguments.arms.split(",")) > 1:
        lines.append(_agreement(setting, nodes, arguments.arms.split(",")))
        print(lines[-1])
    page = "# Baselines that train together\n\n    python tests/benchmarks/baselines_together.py " + " ".join(
        "FOLDER" if each == str(arguments.out) else each for each in sys.argv[1:]
    )
    write_atomically(setting.folder / "page.md", page + "\n\n```\n" + "\n".join(lines) + "\n```\n")


def _graph(setting: Setting, arguments: argparse.Namespace) -> Graph:
    """The graph of the example with prepared rows and a base without pre-training; its baselines are ready."""
    data = setting.folder / "examples" / "support-desk"
    if not (data / "data").exists():
        shutil.copytree(EXAMPLES, setting.folder / "examples", ignore=shutil.ignore_patterns("data", ".mtm"))
        subprocess.run([sys.executable, "generate.py"], cwd=data, check=True, stdout=subprocess.DEVNULL)
        for split in ("validation", "test"):
            for path in data.glob(f"data/*/{split}.jsonl.gz"):
                _keep(path, arguments.rows)
    model = model_file.load(setting.data / "model.yaml")
    stages = model.spec.stages
    baseline = stages.baseline.model_copy(update={"seeds": arguments.seeds, "enabled": True})
    changes: dict[str, object] = {
        "pretraining": None,
        "training": model.spec.training.model_copy(update={"precision": arguments.precision}),
        "stages": stages.model_copy(update={"baseline": baseline}),
        "base_model": model.spec.base_model.model_copy(update={"uri": arguments.base}),
    }
    model = model.model_copy(update={"spec": model.spec.model_copy(update=changes)})
    resolved = model_file.resolve(model, setting.data, Workdir(setting.folder / "resolved"))
    manifests: dict[ArtifactKey, Manifest] = {}
    for kind in ("prepare", "base"):
        graph = build("benchmark", model.spec, resolved, manifests, VERSIONS)
        for node in graph.of_kind(kind):
            _wait([_start(kind, [setting.order(graph, node)], setting, "shared")])
            manifest = _manifest(setting, node, "shared")
            manifests[node.name, manifest.digest] = manifest
    return build("benchmark", model.spec, resolved, manifests, VERSIONS)


def _keep(path: Path, rows: int) -> None:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.readlines()[:rows]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(lines)


def _base_weights(setting: Setting, graph: Graph) -> int:
    return BaseResult.model_validate(_manifest(setting, graph["base"], "shared").result).parameters


def _of_steps(node: Path, steps: int) -> Path:
    """The order with so many steps and no early stop."""
    order = StageOrder.model_validate_json(node.read_text("utf-8"))
    parameters = TrainParameters.model_validate(order.parameters)
    optimisation = parameters.optimisation.model_copy(update={"min_steps": steps, "eval_every": max(1, steps // 4)})
    changed = parameters.model_copy(update={"max_steps": steps, "optimisation": optimisation})
    write_atomically(node, order.model_copy(update={"parameters": changed.to_json()}).model_dump_json(by_alias=True))
    return node


def _run(arm: str, setting: Setting, graph: Graph, nodes: Sequence[Node], steps: int, processes: int) -> float:
    """Train all baselines; the seconds."""
    shutil.rmtree(setting.folder / arm.replace(" ", "-"), ignore_errors=True)
    at_once = processes if arm == "side by side" else 1
    threads = max(1, setting.threads // at_once)
    orders = [_of_steps(setting.order(graph, node, arm, threads=threads), steps) for node in nodes]
    units = [orders] if arm == "together" else [[order] for order in orders]
    begun = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    for unit in units:
        while len(running) >= at_once:
            running = _still_running(running)
            time.sleep(0.02)
        running.append(_start("baseline", unit, setting, arm, threads=threads))
    _wait(running)
    return time.monotonic() - begun


def _start(
    kind: str, orders: Sequence[Path], setting: Setting, arm: str, *, threads: int = 1
) -> subprocess.Popen[bytes]:
    log = setting.folder / arm.replace(" ", "-") / "log"
    options = [option for order in orders for option in ("--order", str(order))]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", f"multitask_trainer.stages.{kind}", *options],
            stdout=output,
            stderr=output,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
        )


def _cpu_seconds() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _still_running(processes: Sequence[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    ended = [process for process in processes if process.poll() is not None]
    _wait(ended)
    return [process for process in processes if process not in ended]


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.wait():
            raise SystemExit(f"{process.args!r} ended with {process.returncode}; see the log in its folder")


def _manifest(setting: Setting, node: Node, arm: str) -> Manifest:
    folder = setting.folder / arm.replace(" ", "-") / artifact_filename((node.name, node.digest or ""))
    return Manifest.model_validate_json((folder / "manifest.json").read_text("utf-8"))


def _results(setting: Setting, nodes: Sequence[Node], arm: str) -> dict[str, TrainResult]:
    return {node.name: TrainResult.model_validate(_manifest(setting, node, arm).result) for node in nodes}


def _agreement(setting: Setting, nodes: Sequence[Node], arms: Sequence[str]) -> str:
    """How far the validation losses of the arms lie apart."""
    results = [_results(setting, nodes, arm) for arm in arms]
    worst = max(
        abs(point.tasks[task].loss / other.tasks[task].loss - 1)
        for each in results[1:]
        for name, result in each.items()
        for point, other in zip(result.curve, results[0][name].curve, strict=True)
        for task in point.tasks
    )
    return f"largest difference of a validation loss between the arms: {worst:.1e} of it"


if __name__ == "__main__":
    main()
