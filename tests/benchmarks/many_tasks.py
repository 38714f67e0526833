"""One, seventeen and a hundred tasks on one frozen base and one server.

    python tests/benchmarks/many_tasks.py [--tasks 1 17 100] [--workdir DIR] [--seconds 20] [--out FILE]

The tasks are made of the words of the support desk: which words a task asks for, its labels, their number and its
number of rows are drawn for each. They are trained with small budgets, in groups of CGC-LoRA, by ``mtm run``; what is
measured is not how well they do. Then ``mtm serve`` serves all of them, a client process asks one task after the other,
drawn at random, and the page has memory, requests a second and latencies. ``mtm plan`` is timed as a command; how the
operator makes the status of a trained model, and how the gateway finds a task, are timed in this process. Stages that
have run are not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("examples/support-desk", "examples/one-plus-n", "tests")]

from demo import free_port, wait_until_serving  # noqa: E402
from generate import Task, among, draw, message, problem, write  # noqa: E402
from make_data import wish  # noqa: E402
from phrases import ACTIONS, AREAS, OBJECTS  # noqa: E402

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec  # noqa: E402
from multitask_client import AsyncTaskClient  # noqa: E402
from multitask_serving.gateway.routes import RouteTable  # noqa: E402
from support.graph_builders import all_done, model, task  # noqa: E402
from support.status_builders import status  # noqa: E402

CONCURRENCY = 16
_FILTERING = {"filtering": {"strategy": "Manual"}}
MB = 1e6


def _action(rng: random.Random, label: str) -> str:
    return wish(rng, label, rng.choice(list(OBJECTS)))


def _object(rng: random.Random, label: str) -> str:
    return wish(rng, rng.choice(list(ACTIONS)), label)


def _area(rng: random.Random, label: str) -> str:
    return message(rng, [problem(rng, rng.choice(AREAS[label]))])


SUBJECTS: dict[str, tuple[Sequence[str], Callable[[random.Random, str], str]]] = {
    "action": (tuple(ACTIONS), _action),
    "object": (tuple(OBJECTS), _object),
    "area": (tuple(AREAS), _area),
}


@dataclass(frozen=True)
class ManyTask:
    """A task and its group: its subject, and whether it has two labels or more."""

    task: Task
    group: str


def make_task(number: int) -> ManyTask:
    """The task with this number; it does not depend on how many there are."""
    rng = random.Random(f"many/{number}")
    subject = list(SUBJECTS)[number % len(SUBJECTS)]
    every, text_of = SUBJECTS[subject]
    chosen = rng.sample(list(every), 2 if number % 2 else rng.randint(3, len(every)))
    names = {label: f"{label}-{rng.choice('bcdfghklmnprstvz')}" for label in chosen}

    def rule(rows: random.Random) -> tuple[dict[str, str], str]:
        label = rows.choice(chosen)
        return {"text": text_of(rows, label)}, names[label]

    labels = tuple(names.values())
    task = Task(f"{subject}-{number:03d}", (rng.randint(160, 480), 60, 60), 0.02, labels, rule, among(labels))
    return ManyTask(task, f"{subject}-{'two' if len(labels) == 2 else 'more'}")


def write_model(folder: Path, tasks: Sequence[ManyTask]) -> Path:
    """The data and the resource file."""
    write({each.task.name: draw(each.task, 17) for each in tasks}, folder / "data")
    entries = [
        {
            "name": each.task.name,
            "type": "Classification",
            "group": each.group,
            "labels": list(each.task.labels),
            "prompt": "{text}\nAnswer:",
            "data": {
                split: {"uri": f"data/{each.task.name}/{split}.jsonl.gz"} for split in ("train", "validation", "test")
            },
        }
        for each in tasks
    ]
    spec = {
        "baseModel": {"uri": "builtin://tiny"},
        "pretraining": {"tasksText": True, "maxSteps": 150},
        "tasks": entries,
        "filtering": {"strategy": "Manual"},
        "stages": {
            "baseline": {"maxSteps": 30},
            "highResource": {"enabled": False},
            "mixture": {"temperature": 2.0, "maxSteps": 100},
        },
        "tuning": {"method": "CGCLoRA", "rank": 16, "alpha": 32, "expertRank": 2},
        "training": {
            "batchRows": 16, "learningRate": 5e-3, "warmupSteps": 5, "maxLength": 96, "seed": 17, "evalEvery": 15,
            "minSteps": 30, "patience": 3, "precision": "fp32", "gpusPerNode": 0,
        },
    }  # fmt: skip
    document = {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "MultiTaskModel",
        "metadata": {"name": f"many-{len(tasks)}"},
        "spec": spec,
    }
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return file


def mtm(*arguments: str, log: Path) -> float:
    """Seconds of one ``mtm`` command; what it prints goes to ``log``."""
    begun = time.monotonic()
    with log.open("ab") as out:
        command = [sys.executable, "-m", "multitask_operator", *arguments]
        status = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
    if status:
        raise SystemExit(f"mtm {' '.join(arguments)} ended with {status}; see {log}")
    return time.monotonic() - begun


@contextmanager
def served(workdir: Path, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of ``mtm serve``, and its process."""
    address = f"127.0.0.1:{free_port()}"
    with log.open("ab") as out:
        command = [sys.executable, "-m", "multitask_operator", "serve", str(workdir), "--address", address]
        server = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        wait_until_serving(address, server)
        yield address, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(60)


async def ask(address: str, texts: dict[str, list[str]], seconds: float) -> list[float]:
    """Seconds of each request: `CONCURRENCY` at a time, each of a task drawn at random."""
    names, latencies = sorted(texts), []
    end = time.monotonic() + seconds

    async def caller(client: AsyncTaskClient, rng: random.Random) -> None:
        while time.monotonic() < end:
            name = rng.choice(names)
            begun = time.monotonic()
            await client.predict(name, {"text": rng.choice(texts[name])})
            latencies.append(time.monotonic() - begun)

    async with AsyncTaskClient(address) as client:
        await asyncio.gather(*(caller(client, random.Random(number)) for number in range(CONCURRENCY)))
    return latencies


def load(address: str, folder: Path, seconds: float) -> dict[str, float]:
    """What a client process measured: requests a second and latencies in seconds."""
    command = [sys.executable, __file__, "--client", address, "--workdir", str(folder), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def client(address: str, folder: Path, seconds: float) -> None:
    """The client process: warm up, measure, print."""
    texts = {}
    for each in sorted((folder / "data").iterdir()):
        with gzip.open(each / "test.jsonl.gz", "rt", encoding="utf-8") as file:
            texts[each.name] = [json.loads(line)["text"] for line in file]
    asyncio.run(ask(address, texts, min(3.0, seconds)))
    latencies = sorted(asyncio.run(ask(address, texts, seconds)))
    print(
        json.dumps(
            {
                "rate": len(latencies) / seconds,
                "p50": latencies[len(latencies) // 2],
                "p99": latencies[int(len(latencies) * 0.99)],
            }
        )
    )


def memory(process: psutil.Process) -> float:
    """Bytes of a process and its children, shared pages counted once (proportional set size)."""
    return float(sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True))))


def measure(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, plan, serve and ask ``count`` tasks."""
    folder = options.workdir / str(count)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [make_task(number) for number in range(count)]
    file, work, log = write_model(folder, tasks), folder / "work", folder / "mtm.log"
    mtm("run", str(file), "--workdir", str(work), "--no-serve", log=log)
    plan = statistics.median(mtm("plan", str(file), "--workdir", str(work), log=log) for _ in range(3))
    report = json.loads((work / "report.json").read_text("utf-8"))
    with served(work, folder / "serve.log") as (address, process):
        asked = load(address, folder, options.seconds)
        used = memory(process)
    return {
        "tasks": count,
        "groups": len({each.group for each in tasks}),
        "stages": len(report["stages"]),
        "qualified": report["qualified"],
        "run": sum(stage["seconds"] for stage in report["stages"]),
        "plan": plan,
        "memory": used,
        **asked,
        **decisions(tasks),
    }


def decisions(tasks: Sequence[ManyTask]) -> dict[str, float]:
    """Seconds for plan and status of a trained model with these tasks, the bytes of the status, and look-ups."""
    names = [each.task.name for each in tasks]
    resource = model(*(task(name, group=each.group) for name, each in zip(names, tasks, strict=True)), **_FILTERING)
    manifests = all_done(resource)
    text = json.dumps(status(resource, manifests).to_json())
    backend = Backend(service="servers", port=8001, weight=100, revision="0" * 8)
    routed = [RoutedTask(name=name, type="Classification", fields=("text",), backends=(backend,)) for name in names]
    table = RouteTable(
        [
            TaskRoute(
                metadata=RouteMetadata(name="many"),
                spec=TaskRouteSpec(namespace="team", model="many", tasks=tuple(routed)),
            )
        ]
    )
    return {
        "status": seconds_of(lambda: status(resource, manifests), 5),
        "status_bytes": len(text),
        "found": seconds_of(lambda: table.resolve(f"team/many/{names[-1]}"), 100_000),
        "unknown": seconds_of(lambda: table.nearest(f"{names[-1]}-x"), 20),
    }


def seconds_of(call: Callable[[], object], times: int) -> float:
    """Seconds of one call: the median of five rounds of ``times`` calls."""
    rounds = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(times):
            call()
        rounds.append((time.perf_counter() - begun) / times)
    return statistics.median(rounds)


def page(results: Sequence[dict[str, Any]], command: str) -> str:
    """The results as Markdown."""
    first = results[0]
    lines = ["# Many tasks on one server", "", f"    {command}", ""]
    lines += [
        "Small invented tasks, trained with small budgets: the page is about what it costs to have many, not about how",
        f"well they do. {CONCURRENCY} requests at a time, each of a task drawn at random, from a process of its own.",
        "In brackets: the ratio to the first line.",
        "",
        "| tasks | groups | stages | qualified | in all stages | memory of all servers | requests/s | p50 | p99 |",
        "|" + " --- |" * 9,
    ]
    for row in results:
        ratio = partial(_ratio, row=row, first=first)
        cells = [
            str(row["tasks"]),
            str(row["groups"]),
            str(row["stages"]),
            str(row["qualified"]),
            f"{row['run'] / 60:.1f} min",
            f"{row['memory'] / MB:,.0f} MB{ratio('memory')}",
            f"{row['rate']:.0f}{ratio('rate')}",
            f"{row['p50'] * 1000:.1f} ms{ratio('p50')}",
            f"{row['p99'] * 1000:.1f} ms{ratio('p99')}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| tasks | `mtm plan` | plan and status | bytes of the status | gateway: a known task | an unknown one |",
        "|" + " --- |" * 6,
    ]
    for row in results:
        ratio = partial(_ratio, row=row, first=first)
        cells = [
            str(row["tasks"]),
            f"{row['plan']:.2f} s{ratio('plan')}",
            f"{row['status'] * 1e3:.1f} ms{ratio('status')}",
            f"{row['status_bytes']:,}{ratio('status_bytes')}",
            f"{row['found'] * 1e6:.2f} µs{ratio('found')}",
            f"{row['unknown'] * 1e6:.0f} µs{ratio('unknown')}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _ratio(name: str, *, row: dict[str, Any], first: dict[str, Any]) -> str:
    return "" if row is first else f" ({row[name] / first[name]:.2f}×)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 17, 100])
    parser.add_argument("--workdir", type=Path, default=Path(".mtm/many-tasks"))
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", type=Path, help="where to write the page as well")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        client(options.client, options.workdir, options.seconds)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results = [measure(count, options) for count in options.tasks]
    shown = f"python tests/benchmarks/many_tasks.py --tasks {' '.join(map(str, options.tasks))}"
    text = page(results, f"{shown} --seconds {options.seconds:g}")
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
