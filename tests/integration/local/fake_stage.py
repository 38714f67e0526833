"""A fake stage program, run by the real stage runner: it has a made-up result at once, or misbehaves.

``faults.json`` beside the resource file: stage → how it misbehaves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from multitask_api.errors import RetryableError, UserError
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io import parameters as records
from multitask_api.stages import Node, NodeState
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import Work, main
from support.graph_builders import RESULTS

RECORDS = {
    "prepare": records.PrepareParameters,
    "base": records.BaseParameters,
    "baseline": records.TrainParameters,
    "filter": records.FilterParameters,
    "high-resource": records.TrainParameters,
    "mixture": records.TrainParameters,
    "bundle": records.BundleParameters,
    "evaluate": records.EvaluateParameters,
    "export": records.ExportParameters,
    "verify": records.VerifyParameters,
    "ledger": records.LedgerParameters,
}


def work(stage: StageContext) -> StageOutcome:
    order = stage.order
    misbehave(stage, json.loads((Path(order.data_root) / "faults.json").read_text()).get(order.stage, ""))
    for name in order.inputs:
        stage.input(name)  # raises when an input is missing
    parameters = stage.parameters(RECORDS[order.kind])
    node = Node(order.stage, order.kind, NodeState.READY, parameters=parameters, digest=order.digest)
    workdir = next(folder for folder in stage.work_folder.parents if (folder / "model.json").exists())
    model = MultiTaskModel.model_validate_json((workdir / "model.json").read_text())
    result, names = RESULTS[order.kind](node, model)
    (stage.artifact_folder / "content.txt").write_text(order.stage)
    return StageOutcome(result, {name: f"{order.stage}#{name}" for name in names})


def work_together(stages: Sequence[StageContext]) -> Iterator[tuple[StageContext, Work]]:
    for stage in stages:
        yield stage, work


def misbehave(stage: StageContext, fault: str) -> None:
    marks = stage.work_folder.parent.parent / "marks"
    marks.mkdir(exist_ok=True)
    before = marks / stage.order.stage.replace("/", "__")
    if fault == "hang":
        before.write_text(str(os.getpid()))
        wait_for_ever()
    elif fault == "hang, leaving a helper":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        before.write_text(str(helper.pid))
        wait_for_ever()
    elif fault == "checkpoint on SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: ((stage.work_folder / "checkpoint").write_text("saved"), os._exit(0)))
        before.write_text(str(os.getpid()))
        wait_for_ever()
    elif fault == "retryable once" and not before.exists():
        before.write_text("failed")
        raise RetryableError("the storage was away")
    elif fault == "killed once" and not before.exists():
        before.write_text("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "wrong input":
        raise UserError("line 3 has no label; add one")
    elif fault == "crash":
        raise ZeroDivisionError("division by zero")
    elif fault == "exit":
        sys.stderr.write("no space left on device\n")
        os._exit(9)


def wait_for_ever() -> None:
    while True:
        time.sleep(60)


if __name__ == "__main__":
    raise SystemExit(main(work, work_together=work_together))
