"""prepare: one task's rows, read, checked, normalised and counted; all bad rows are told at once."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from multitask_api.stage_io.parameters import PrepareParameters
from multitask_api.stage_io.results import SPLITS, PrepareResult, SplitRows
from multitask_api.stages.digests import digest
from multitask_trainer.data.fingerprints import HashCache, resolve_data
from multitask_trainer.data.look import TaskLook, characters, label_counts, look, refuse_if_unusable
from multitask_trainer.data.reading import Places
from multitask_trainer.data.rows import rows_digest, write_inputs, write_rows
from multitask_trainer.errors import DataError
from multitask_trainer.stage import Outcome, Stage, run


def work(stage: Stage) -> Outcome:
    """Read the three splits, refuse what cannot be used, write the rest in the one form."""
    parameters = stage.parameters(PrepareParameters)
    places = Places.of(stage.order.data_root, os.environ)
    stage.reporter.report("reading")
    found = look(parameters.task, parameters.data, places)

    # Beside the checkpoints while it is an error, so that it is still there after the failure.
    complete = stage.work / "bad_rows.jsonl"
    write_bad_rows(found, complete)
    refuse_if_unusable(found, parameters.data.max_bad_rows, str(complete))
    refuse_if_changed(parameters, places)

    stage.reporter.report("writing")
    for split in SPLITS:
        write_rows(stage.folder, split, found.rows[split])
    write_inputs(stage.folder, found.hashes)
    if found.droppable:
        write_bad_rows(found, stage.folder / "bad_rows.jsonl")
    rows = SplitRows(**{split: len(found.rows[split]) for split in SPLITS})
    dropped = len(found.droppable)
    warnings = [f"{dropped} bad rows dropped, as data.maxBadRows allows"] if dropped else []
    result = PrepareResult(
        rows=rows,
        bad_rows=dropped,
        label_counts=label_counts(found.rows) if parameters.task.type == "Classification" else {},
        test_rows_in_train=found.test_rows_in_train,
        characters=characters(found.rows),
        warnings=(*warnings, *found.warnings),
    )
    outputs = {split: rows_digest(found.rows[split]) for split in SPLITS}
    return Outcome(result, outputs | {"rows": digest(rows.to_json())})


def refuse_if_changed(parameters: PrepareParameters, places: Places) -> None:
    """The stage's digest speaks for the content that was resolved: other rows must not be kept under it."""
    for split, fingerprint in parameters.fingerprints.items():
        address = getattr(parameters.data, split).uri
        found = resolve_data(address, places, HashCache())
        if found.fingerprint is not None and found.fingerprint != fingerprint:
            raise DataError(f"{split}: {address} has changed since this run began; start the run again")


def write_bad_rows(found: TaskLook, path: Path) -> None:
    """All bad rows, one JSON object a line: split, file, line, field, reason, fatal."""
    with path.open("w", encoding="utf-8") as file:
        for bad in found.bad:
            file.write(json.dumps(asdict(bad), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    raise SystemExit(run(work))
