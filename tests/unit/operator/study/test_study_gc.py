"""What `mtm gc` keeps of a folder in which a study was run."""

from __future__ import annotations

import pytest

from multitask_operator.commands.gc import gc
from multitask_operator.commands.study.loading import LoadedStudy
from multitask_operator.commands.study.run import record_runs
from multitask_operator.local.gc import find_unused
from multitask_operator.local.workdir import Workdir
from multitask_operator.study.spec import check
from support.graph_builders import resolved
from support.simulated_study import SimulatedStudy, study_document


def put(workdir, key, manifest):
    stage, digest = key
    folder = workdir.artifact(key)
    folder.mkdir(parents=True)
    named = manifest.model_copy(update={"stage": stage, "digest": digest, "files": {}})
    (folder / "manifest.json").write_text(named.model_dump_json(by_alias=True))


def record(workdir, study):
    loaded = LoadedStudy(check(study.study), study.resource, workdir.path / "model.yaml", study.runs)
    runs = tuple((run, resolved(run.arm.model)) for run in study.runs)
    record_runs(workdir, loaded, runs, study.graphs().total_steps)


@pytest.fixture
def study():
    found = SimulatedStudy(study_document(totalSteps=2000, seeds=2))
    found.run()
    return found


@pytest.fixture
def workdir(tmp_path, study):
    """A folder in which nothing but the study was run."""
    workdir = Workdir(tmp_path)
    for key, manifest in study.manifests.items():
        put(workdir, key, manifest)
    record(workdir, study)
    return workdir


def test_the_results_of_its_runs_are_kept_and_no_others(workdir, study):
    assert find_unused(workdir).artifacts == ()
    others = {(stage, "0" * 12) for stage in ("mixture/classification", "export", "verify", "ledger")}
    for key in others:  # no run has such a stage, or each has one whose digest is known
        put(workdir, key, next(iter(study.manifests.values())))
    assert set(find_unused(workdir).artifacts) == others


def test_the_filter_that_the_steps_follow_from_is_kept(tmp_path):
    study, workdir = SimulatedStudy(study_document(seeds=1)), Workdir(tmp_path)
    study.run()
    assert study.resource.spec.stages.total_steps is None
    for key, manifest in study.manifests.items():
        put(workdir, key, manifest)
    record(workdir, study)
    assert find_unused(workdir).artifacts == ()


def test_runs_that_the_study_no_longer_has_are_dropped_and_all_when_it_is_forgotten(workdir, study):
    fewer = SimulatedStudy(study_document(totalSteps=2000, seeds=1), manifests=study.manifests)
    record(workdir, fewer)
    assert len(workdir.planned_models()) == 4
    assert set(find_unused(workdir).artifacts) == study.manifests.keys() - fewer.graphs().done_nodes().keys()
    gc(workdir.path, dry_run=False, forget="groups", as_json=False)
    assert workdir.manifests() == workdir.planned_models() == {}
    assert not list(workdir.path.glob("versions/*"))
