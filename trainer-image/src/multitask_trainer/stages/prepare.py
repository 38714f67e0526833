"""Stage ``prepare``: one task's rows, read, validated, normalised and counted; all bad rows are reported at once."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from multitask_api.stage_io.parameters import PrepareParameters
from multitask_api.stage_io.results import SPLITS, PrepareResult, SplitRows
from multitask_api.stages.digests import digest
from multitask_trainer.data.fingerprints import HashCache, resolve_data
from multitask_trainer.data.inspection import TaskInspection, characters, inspect_task, label_counts, raise_if_unusable
from multitask_trainer.data.reading import DataLocations
from multitask_trainer.data.rows import rows_digest, write_inputs, write_rows
from multitask_trainer.errors import DataError
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main


def work(stage: StageContext) -> StageOutcome:
    """Read the three splits, reject what cannot be used, write normalised rows."""
    parameters = stage.parameters(PrepareParameters)
    locations = DataLocations.of(stage.order.data_root, os.environ)
    stage.reporter.report("reading")
    inspection = inspect_task(parameters.task, parameters.data, locations)

    # In the work folder while it is an error: the artifact's folder is not kept after a failure.
    complete = stage.work_folder / "bad_rows.jsonl"
    write_bad_rows(inspection, complete)
    raise_if_unusable(inspection, parameters.data.max_bad_rows, str(complete))
    raise_if_changed(parameters, locations)

    stage.reporter.report("writing")
    for split in SPLITS:
        write_rows(stage.artifact_folder, split, inspection.rows[split])
    write_inputs(stage.artifact_folder, inspection.hashes)
    if inspection.droppable:
        write_bad_rows(inspection, stage.artifact_folder / "bad_rows.jsonl")
    rows = SplitRows(**{split: len(inspection.rows[split]) for split in SPLITS})
    dropped = len(inspection.droppable)
    warnings = [f"{dropped} bad rows dropped, as data.maxBadRows allows"] if dropped else []
    result = PrepareResult(
        rows=rows,
        bad_rows=dropped,
        label_counts=label_counts(inspection.rows) if parameters.task.type == "Classification" else {},
        test_rows_in_train=inspection.test_rows_in_train,
        characters=characters(inspection.rows),
        warnings=(*warnings, *inspection.warnings),
    )
    outputs = {split: rows_digest(inspection.rows[split]) for split in SPLITS}
    return StageOutcome(result, outputs | {"rows": digest(rows.to_json())})


def raise_if_changed(parameters: PrepareParameters, locations: DataLocations) -> None:
    """Raise DataError if data has changed since it was resolved: the stage's digest is that of the resolved content."""
    for split, source in parameters.data.sources.items():
        expected = parameters.fingerprints.get(split)
        actual = resolve_data(source.uri, locations, HashCache()).fingerprint if expected else None
        if actual is not None and actual != expected:
            raise DataError(f"{split}: {source.uri} has changed since this run began; start the run again")


def write_bad_rows(inspection: TaskInspection, path: Path) -> None:
    """All bad rows, one JSON object a line: split, file, line, field, reason, fatal."""
    with path.open("w", encoding="utf-8") as file:
        for bad in inspection.bad:
            file.write(json.dumps(asdict(bad), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(work))
