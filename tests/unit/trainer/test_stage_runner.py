"""The frame of a stage program: how it ends and what it leaves, for work that succeeds and work that does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from multitask_api.stage_io.ledger import Reduction
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageOrder
from multitask_api.stage_io.parameters import PrepareParameters
from multitask_api.stage_io.results import Agreement
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.runtime.failures import failure_of_stage
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.runtime.runner import main

DONE = StageOutcome(Agreement(compared=1, equal=1, near_ties=0, different=0), {"result": "d"})


def order(folder: Path) -> list[str]:
    stage_order = StageOrder(
        model="desk",
        stage="verify",
        kind="verify",
        digest="d",
        version=1,
        parameters={"unknown": 1},
        read_outputs={},
        inputs={},
        output=str(folder / "out"),
        work=str(folder / "work"),
    )
    (folder / "order.json").write_text(stage_order.model_dump_json(by_alias=True))
    return ["--order", str(folder / "order.json")]


def works(stage: StageContext) -> StageOutcome:
    (stage.artifact_folder / "below").mkdir()
    (stage.artifact_folder / "below" / "file").write_text("content")
    return DONE


def wrong_parameters(stage: StageContext) -> StageOutcome:
    stage.parameters(PrepareParameters)
    return DONE


def nothing_measured(stage: StageContext) -> StageOutcome:
    del stage
    return StageOutcome(Reduction.model_validate({"bytes": "not measured", "replicas": 0.5}), {})


def computes(stage: StageContext) -> StageOutcome:
    import torch  # a stage that computes has loaded it

    del torch
    return works(stage)


def test_a_manifest_says_what_computed_the_result(tmp_path: Path) -> None:
    arguments = order(tmp_path)
    path = tmp_path / "order.json"
    path.write_text(path.read_text().replace('"device":"auto"', '"device":"cpu"'))
    assert main(computes, arguments) == 0
    manifest = Manifest.model_validate_json((tmp_path / "out" / "manifest.json").read_text())
    assert manifest.environment["accelerator"] == "cpu"


FAILURES = [
    # work, exit status, kind of failure, what it says
    (wrong_parameters, 2, "UserError", "the parameters are not valid PrepareParameters of this version"),
    (nothing_measured, 1, "Fault", "ValidationError: 1 validation error for Reduction"),
]


@pytest.mark.parametrize(("work", "status", "kind", "message"), FAILURES)
def test_only_wrong_parameters_are_bad_input(
    tmp_path: Path, work: Callable[[StageContext], StageOutcome], status: int, kind: str, message: str
) -> None:
    assert main(work, order(tmp_path)) == status
    failure = StageFailure.model_validate_json((tmp_path / "work/failure.json").read_bytes())
    assert failure.kind == kind
    assert message in failure.message


def test_a_process_that_waits_too_long_for_another_says_so_and_is_tried_again(tmp_path: Path) -> None:
    from torch.distributed import HashStore, ProcessGroupGloo

    store = HashStore()
    failures: list[StageFailure] = []

    def meet(rank: int) -> ProcessGroupGloo:
        group = ProcessGroupGloo(store, rank, 2, timedelta(seconds=1))
        if rank == 0:  # the other one never comes
            with pytest.raises(RuntimeError) as raised:
                group.barrier().wait()
            failures.append(failure_of_stage(context, raised.value))
        return group

    order(tmp_path)
    stage_order = StageOrder.model_validate_json((tmp_path / "order.json").read_text())
    context = StageContext(stage_order, FileProgressReporter("verify", None), DistributedContext(world_size=2))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(meet, range(2)))
    (failure,) = failures
    assert failure.kind == "Retryable"
    assert failure.message.startswith("another process of this stage ended, cannot be reached, or is too far behind: ")
    assert "Timed out waiting 1000ms" in failure.message


def test_a_manifest_that_cannot_be_read_is_a_failure_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text('{"stage": ')
    assert main(works, order(tmp_path)) == 75
    failure = StageFailure.model_validate_json((tmp_path / "work/failure.json").read_bytes())
    assert failure.message.startswith(f"{tmp_path / 'out'}/manifest.json cannot be read; delete the folder")


def test_a_result_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    assert main(works, order(tmp_path)) == 0
    assert main(nothing_measured, order(tmp_path)) == 0
    assert Manifest.model_validate_json((tmp_path / "out/manifest.json").read_bytes()).outputs == {"result": "d"}
    assert not (tmp_path / "work").exists()


def test_all_files_are_on_the_disk_before_the_artifact_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if "work" not in path.parts:
            synced.append(path.name if (tmp_path / "out").exists() else path.relative_to(tmp_path).as_posix())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert main(works, order(tmp_path)) == 0
    staged = synced[-2]
    assert {path.removeprefix(staged) for path in synced[:-1]} >= {"/below/file", "/below", "/manifest.json", ""}
    assert synced[-1] == tmp_path.name, "the folder that names the artifact, once it is there"
