"""Stage ``verify``: the test rows of every routed task go through gateway and Triton: served is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from multitask_api.stage_io.parameters import VerifyParameters
from multitask_api.stage_io.results import Agreement, ExportResult, VerifyResult
from multitask_api.stages.digests import digest
from multitask_client import AsyncTaskClient, Prediction
from multitask_serving.gateway.server import running_gateway
from multitask_serving.serve import local_backends
from multitask_serving.triton.server import TritonServer
from multitask_trainer.data.rows import Row, read_rows
from multitask_trainer.errors import StageError
from multitask_trainer.evaluation.agreement import NEAR_TIES, Difference, agreement, differences, total_agreement
from multitask_trainer.evaluation.gateway_client import predict_rows
from multitask_trainer.evaluation.scoring import read_scores
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main

EXAMPLES = 10


def work(stage: StageContext) -> StageOutcome:
    """Serve the export, predict, compare. Raises `StageError` if an answer differs by more than a near tie."""
    limit = NEAR_TIES[stage.parameters(VerifyParameters).precision]
    exported = ExportResult.model_validate(stage.input_manifest("export").result)
    rows = {
        item.task: read_rows(stage.input(f"prepare/{item.task}"), "test")
        for item in exported.tasks
        if item.served_by is not None
    }
    differing: dict[str, list[Difference]] = {}
    if rows:
        folder = stage.input("export") / "answers"
        for task, predictions in asyncio.run(_predict_all(stage, rows, exported.revision)).items():
            served = [prediction.answer for prediction in predictions]
            differing[task] = differences(read_scores(folder / f"{task}.parquet"), served, limit)
    result = _result(rows, differing)
    if result.different:
        raise StageError(_difference_message(result, limit))
    return StageOutcome(result, {"result": digest(result.to_json())})


async def _predict_all(
    stage: StageContext, rows: Mapping[str, Sequence[Row]], revision: str
) -> dict[str, list[Prediction]]:
    """Start Triton on the exported repository and a gateway before it, and send the rows of every task."""
    folder = stage.input("export")
    stage.reporter.report("starting the servers")
    with TritonServer.start(folder / "triton", stage.scratch_folder / "triton") as triton:
        async with (
            running_gateway(folder / "routes.yaml", "127.0.0.1:0", transform=local_backends(triton.port)) as gateway,
            AsyncTaskClient(f"127.0.0.1:{gateway.port}") as client,
        ):
            answered = {}
            for number, (task, own) in enumerate(rows.items()):
                stage.reporter.report(f"asking {task}", step=number, total=len(rows))
                answered[task] = await predict_rows(client, task, own, revision=revision)
            return answered


def _result(rows: Mapping[str, Sequence[Row]], differing: Mapping[str, Sequence[Difference]]) -> VerifyResult:
    tasks: dict[str, Agreement] = {task: agreement(len(own), differing[task]) for task, own in rows.items()}
    # Faults first: they are what a reader looks for.
    ordered = sorted(
        ((task, item) for task, items in differing.items() for item in items), key=lambda pair: pair[1].near_tie
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
    return VerifyResult(**total_agreement(tasks.values()).model_dump(), tasks=tasks, examples=examples)


def _difference_message(result: VerifyResult, limit: float) -> str:
    wrong = {task: agreement.different for task, agreement in result.tasks.items() if agreement.different}
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
    raise SystemExit(main(work))
