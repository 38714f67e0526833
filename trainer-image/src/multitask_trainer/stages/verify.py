"""Stage ``verify``: the test rows of every routed task go through gateway and Triton: served is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from multitask_api.stage_io.parameters import VerifyParameters
from multitask_api.stage_io.results import Agreement, ExportResult, VerifyResult
from multitask_api.stages.digests import digest
from multitask_serving.client import AsyncTaskClient, Prediction
from multitask_serving.gateway.server import running_gateway
from multitask_serving.serve import local_backends
from multitask_serving.triton.server import TritonServer
from multitask_trainer.asking import ask
from multitask_trainer.data.rows import Row, read_rows
from multitask_trainer.errors import StageError
from multitask_trainer.judging.agreement import NEAR_TIES, Difference, agreement, differences, total
from multitask_trainer.judging.scoring import read_scores
from multitask_trainer.stage import Outcome, Stage, run

EXAMPLES = 10


def work(stage: Stage) -> Outcome:
    """Serve the export, ask, compare. Raises `StageError` if an answer differs where evaluation was sure."""
    limit = NEAR_TIES[stage.parameters(VerifyParameters).precision]
    exported = ExportResult.model_validate(stage.manifest_of("export").result)
    rows = {
        item.task: read_rows(stage.input(f"prepare/{item.task}"), "test")
        for item in exported.tasks
        if item.served_by is not None
    }
    found: dict[str, list[Difference]] = {}
    if rows:
        served = asyncio.run(_ask_all(stage, rows, exported.revision))
        answers = stage.input("export") / "answers"
        for task, predictions in served.items():
            said = [prediction.answer for prediction in predictions]
            found[task] = differences(read_scores(answers / f"{task}.parquet"), said, limit)
    result = _result(rows, found)
    if result.different:
        raise StageError(_complaint(result, limit))
    return Outcome(result, {"result": digest(result.to_json())})


async def _ask_all(stage: Stage, rows: Mapping[str, Sequence[Row]], revision: str) -> dict[str, list[Prediction]]:
    """Start Triton on the exported repository and a gateway before it, and ask for every task."""
    folder = stage.input("export")
    stage.reporter.report("starting the servers")
    with TritonServer.start(folder / "triton", stage.scratch / "triton") as triton:
        async with (
            running_gateway(folder / "routes.yaml", "127.0.0.1:0", transform=local_backends(triton.port)) as gateway,
            AsyncTaskClient(f"127.0.0.1:{gateway.port}") as client,
        ):
            answered = {}
            for number, (task, own) in enumerate(rows.items()):
                stage.reporter.report(f"asking {task}", step=number, total=len(rows))
                answered[task] = await ask(client, task, own, revision=revision)
            return answered


def _result(rows: Mapping[str, Sequence[Row]], found: Mapping[str, Sequence[Difference]]) -> VerifyResult:
    tasks: dict[str, Agreement] = {task: agreement(len(own), found[task]) for task, own in rows.items()}
    # Faults first: they are what a reader looks for.
    ordered = sorted(
        ((task, item) for task, items in found.items() for item in items), key=lambda pair: pair[1].near_tie
    )
    examples = tuple(
        {
            "task": task,
            "input": " | ".join(rows[task][item.row].fields.values())[:200],
            "evaluated": item.evaluated,
            "served": item.served,
            "margin": f"{item.margin:.3g}",
        }
        for task, item in ordered[:EXAMPLES]
    )
    return VerifyResult(**total(tasks.values()).model_dump(), tasks=tasks, examples=examples)


def _complaint(result: VerifyResult, limit: float) -> str:
    wrong = {task: part.different for task, part in result.tasks.items() if part.different}
    counts = ", ".join(f"{task}: {count}" for task, count in wrong.items())
    head = (
        f"{result.different} of {result.compared} served answers are not those of the evaluation, with margins of "
        f"{limit} nats or more ({counts}); the server does not run what was measured"
    )
    lines = [
        f"  {item['task']}: evaluated {item['evaluated']!r}, served {item['served']!r} (margin {item['margin']}): "
        f"{item['input']!r}"
        for item in result.examples
        if float(item["margin"]) >= limit
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    raise SystemExit(run(work))
