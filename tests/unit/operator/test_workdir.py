"""Work folders: which artifacts are results, the lock, the links to exports, and unused collection."""

from __future__ import annotations

import multiprocessing
import os
import shutil

import pytest

from multitask_api.stage_io.manifest import FileEntry
from multitask_api.stages import NodeState
from multitask_api.stages.versions import UNRECORDED_VERSIONS, VERSIONS, with_newer_kinds
from multitask_operator.local import gc, release
from multitask_operator.local.exports import record_export
from multitask_operator.local.promotion import Published
from multitask_operator.local.workdir import PlannedModel, Workdir, WorkdirError
from support.graph_builders import all_done, graph_of, manifest, model, resolved, task

DESK = model(task("urgency"), task("reply", "Generation"))
KB = b"x" * 1000


def put(workdir, key, entry, files=("a.bin",)):
    """An artifact of 1,000 bytes a file."""
    folder = workdir.artifact(key)
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(KB)
    entries = {name: FileEntry(sha256="0", bytes=1000) for name in files}
    (folder / "manifest.json").write_text(entry.model_copy(update={"files": entries}).model_dump_json(by_alias=True))


def filled(path, resource=DESK, versions=VERSIONS, **results):
    """A work folder with everything of ``resource`` done; ``results`` as in ``all_done``."""
    workdir = Workdir(path)
    for key, entry in all_done(resource, versions=versions, **results).items():
        if not workdir.artifact(key).exists():
            put(workdir, key, entry)
    workdir.save_plan(PlannedModel(model=resource, resolved=resolved(resource)), versions)
    return workdir


@pytest.fixture
def workdir(tmp_path):
    return filled(tmp_path)


def test_manifests_are_read_by_stage_and_digest(workdir):
    assert set(workdir.manifests()) == set(all_done(DESK))


BROKEN = [
    ("without its manifest", lambda folder: (folder / "manifest.json").unlink()),
    ("with a manifest that is not one", lambda folder: (folder / "manifest.json").write_text("{")),
    ("with a manifest of another stage", lambda folder: folder.rename(folder.with_name("0" * 12))),
    ("that lost a file", lambda folder: (folder / "a.bin").unlink()),
    ("with a file cut short", lambda folder: (folder / "a.bin").write_bytes(b"x")),
]


@pytest.mark.parametrize(("sentence", "harm"), BROKEN, ids=[row[0] for row in BROKEN])
def test_an_incomplete_artifact_is_not_a_result(workdir, sentence, harm):
    key = next(key for key in workdir.manifests() if key[0] == "base")
    harm(workdir.artifact(key))
    manifests = workdir.manifests()
    assert key not in manifests
    assert len(manifests) == len(all_done(DESK)) - 1


def test_a_second_holder_learns_the_process_id_of_the_first(workdir):
    with workdir.locked():
        context = multiprocessing.get_context("fork")
        answer = context.SimpleQueue()
        other = context.Process(target=_try_lock, args=(workdir.path, answer))
        other.start()
        message = answer.get()
        other.join()
    assert f"in use by another mtm (process {os.getpid()})" in message
    with workdir.locked():
        assert (workdir.path / "lock").read_text() == str(os.getpid())


def test_a_path_that_cannot_be_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(WorkdirError, match=r"cannot be a work folder: .*; give another --workdir"):
            Workdir(path).locked().__enter__()


def test_a_folder_of_another_program_is_not_a_work_folder(tmp_path):
    """`gc` would delete the contents of its ``work``."""
    (tmp_path / "work/precious").mkdir(parents=True)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(WorkdirError, match="is not a work folder of mtm"):
        Workdir.existing(tmp_path)


def _try_lock(path, answer):
    try:
        with Workdir(path).locked():
            answer.put("no error")
    except WorkdirError as error:
        answer.put(str(error))


def test_links_to_exports_are_relative_and_end_with_the_artifact(workdir, tmp_path):
    old, new = ("export", "a" * 12), ("export", "b" * 12)
    assert workdir.published == Published()
    for key in (old, new):
        put(workdir, key, next(iter(workdir.manifests().values())))
        workdir.publish(Published(key, old))
    assert workdir.current.readlink().as_posix() == f"stages/export/{'b' * 12}"
    assert workdir.published == Published(new, old)
    shutil.rmtree(workdir.artifact(old))
    assert workdir.published == Published(new, None)
    workdir.publish(Published())
    assert not list(workdir.path.glob("*ified")) + list(workdir.path.glob("current"))


def test_nothing_is_unused_right_after_a_run(workdir):
    assert gc.find_unused(workdir) == gc.UnusedFiles((), (), 0)


def test_what_a_changed_model_no_longer_uses_is_removed(tmp_path):
    before = filled(tmp_path)
    old = set(before.manifests())
    workdir = filled(tmp_path, model(task("urgency", prompt="{text} how?\n:"), task("reply", "Generation")))
    unused = gc.find_unused(workdir)
    assert set(unused.artifacts) < old
    assert "prepare/urgency" in {stage for stage, _ in unused.artifacts}
    assert "prepare/reply" not in {stage for stage, _ in unused.artifacts}
    assert unused.bytes >= 1000 * len(unused.artifacts)
    gc.remove(workdir, unused)
    assert gc.find_unused(workdir).artifacts == ()
    manifests = workdir.manifests()
    assert graph_of(workdir.planned_models()["desk"].model, manifests).finished


def test_another_model_of_the_same_folder_keeps_what_it_uses(tmp_path):
    filled(tmp_path)
    workdir = filled(tmp_path, model(task("urgency"), name="other"))
    assert gc.find_unused(workdir).artifacts == ()
    (tmp_path / "models/desk.json").unlink()
    stages = {stage for stage, _ in gc.find_unused(workdir).artifacts}
    assert {"prepare/reply", "export"} <= stages
    assert "prepare/urgency" not in stages


def test_a_stage_whose_digest_is_not_known_yet_keeps_its_artifacts(workdir):
    """The mixture may get the same digest again: its artifact must be kept for that."""
    key = next(key for key in workdir.manifests() if key[0] == "base")
    (workdir.artifact(key) / "manifest.json").unlink()
    graph = graph_of(DESK, workdir.manifests())
    assert graph["mixture/classification"].state is NodeState.WAITING
    assert gc.find_unused(workdir).artifacts == ()


@pytest.mark.parametrize("published", ["current", "verified"])
def test_the_served_and_the_verified_export_are_kept(workdir, published):
    old = manifest(graph_of(DESK, all_done(DESK))["export"], DESK).model_copy(update={"digest": "0" * 12})
    put(workdir, ("export", "0" * 12), old)
    assert [key for key in gc.find_unused(workdir).artifacts if key[0] == "export"] == [("export", "0" * 12)]
    workdir.publish(Published(**{published: ("export", "0" * 12)}))
    assert gc.find_unused(workdir).artifacts == ()


def test_a_base_that_other_engines_load_is_kept_as_long_as_the_export_is_there(workdir, tmp_path):
    key, out = ("export", "0" * 12), tmp_path / "exports"
    put(workdir, key, manifest(graph_of(DESK, all_done(DESK))["export"], DESK).model_copy(update={"digest": key[1]}))
    out.mkdir()
    for _ in range(2):
        record_export(workdir.artifact(key), out)
    assert gc.find_unused(workdir).artifacts == ()
    out.rmdir()
    assert gc.find_unused(workdir).artifacts == (key,)
    record_export(tmp_path / "a/copy/elsewhere", out)


def test_bytes_with_a_link_elsewhere_free_nothing(workdir, tmp_path):
    put(workdir, ("export", "0" * 12), next(iter(workdir.manifests().values())), files=("a.bin", "b.bin"))
    folder = workdir.artifact(("export", "0" * 12))
    alone = gc.find_unused(workdir).bytes
    os.link(folder / "a.bin", tmp_path / "elsewhere.bin")
    assert gc.find_unused(workdir).bytes == alone - 1000


def test_scratch_folders_of_finished_stages_are_removed(workdir):
    base = next(key for key in workdir.manifests() if key[0] == "base")
    for name in (f"base-{base[1]}", "prepare__urgency-000000000000"):
        (workdir.path / "work" / name).mkdir(parents=True)
    assert {path.name for path in gc.find_unused(workdir).folders} == {
        f"base-{base[1]}",
        "prepare__urgency-000000000000",
    }
    (workdir.artifact(base) / "manifest.json").unlink()
    assert {path.name for path in gc.find_unused(workdir).folders} == {"prepare__urgency-000000000000"}


def test_rows_of_results_that_are_used_stay(workdir):
    used = next(key for key in workdir.manifests() if key[0] == "prepare/urgency")
    for digest in (used[1], "000000000000"):
        folder = workdir.path / "work" / "rows" / f"prepare__urgency-{digest}"
        folder.mkdir(parents=True)
        (folder / "0a1b.bin").write_bytes(b"x" * 100)
    unused = gc.find_unused(workdir)
    assert [str(path.relative_to(workdir.path)) for path in unused.folders] == [
        "work/rows/prepare__urgency-000000000000"
    ]
    assert unused.bytes == 100


# -- the release that a folder is of -----------------------------------------------------------------------------------


@pytest.fixture
def raised(monkeypatch):
    """The next release: in it the versions of some kinds of stages are raised."""

    def begin(*kinds):
        versions = {kind: version + (kind in kinds) for kind, version in VERSIONS.items()}
        monkeypatch.setattr(release, "VERSIONS", versions)
        return versions

    return begin


def planned(workdir, resource=DESK, *, refresh=False):
    return release.versions_of_run(resource, resolved(resource), workdir, refresh=refresh)


@pytest.mark.parametrize("kinds", [("prepare",), ("baseline", "mixture"), ("export",), tuple(VERSIONS)])
def test_a_finished_folder_stays_finished_after_an_upgrade(workdir, raised, kinds):
    raised(*kinds)
    assert planned(workdir) == VERSIONS
    assert graph_of(DESK, workdir.manifests(), versions=planned(workdir)).finished
    (note,) = release.release_notes(planned(workdir))
    assert all(kind in note for kind in kinds)
    assert "--refresh" in note


def test_a_folder_of_a_release_that_recorded_no_versions_stays_finished(tmp_path):
    workdir = filled(tmp_path, versions=UNRECORDED_VERSIONS)
    shutil.rmtree(workdir.path / "versions")
    assert planned(workdir) == with_newer_kinds(UNRECORDED_VERSIONS)


@pytest.mark.parametrize("text", ["{", "[]", '{"prepare": 2}', '{"prepare": "two"}'])
def test_versions_that_cannot_be_read_count_as_not_recorded(workdir, text):
    (workdir.path / "versions" / "desk.json").write_text(text)
    assert workdir.versions_of("desk") == with_newer_kinds(UNRECORDED_VERSIONS)


@pytest.fixture
def without_affinity(workdir):
    """A folder of the last release before filtering.strategy Affinity, which had none of its kinds of stages."""
    versions = {kind: VERSIONS[kind] for kind in VERSIONS.keys() - {"gradients", "affinity", "check"}}
    workdir.save_plan(PlannedModel(model=DESK, resolved=resolved(DESK)), versions)
    return workdir


def test_kinds_of_stages_that_are_new_make_it_no_folder_of_another_release(without_affinity):
    assert planned(without_affinity) == VERSIONS
    assert release.release_notes(planned(without_affinity)) == []
    assert release.adoption_notes(without_affinity.versions_of("desk"), VERSIONS) == []


def test_a_folder_of_a_release_without_affinity_can_be_planned_with_it(without_affinity):
    edited = model(task("urgency"), task("reply", "Generation"), filtering={"strategy": "Affinity"})
    assert planned(without_affinity, edited) == VERSIONS


def test_a_new_release_is_adopted_by_an_edit_and_by_refresh(workdir, raised):
    versions = raised("mixture")
    edited = model(task("urgency"), task("reply", "Generation"), training={"learningRate": 0.01})
    assert planned(workdir, edited) == versions
    assert planned(workdir, refresh=True) == versions
    assert release.release_notes(versions) == []
    (note,) = release.adoption_notes(workdir.versions_of("desk"), versions)
    assert note.startswith("another release began this run: its stages of mixture run again")


def test_a_run_of_this_release_has_no_note(workdir):
    versions = planned(workdir)
    assert release.release_notes(versions) == []
    assert release.adoption_notes(workdir.versions_of("desk"), versions) == []
    assert release.adoption_notes(None, versions) == []


def test_a_folder_that_stays_finished_is_not_adopted(workdir, raised):
    raised("mixture")
    assert release.adoption_notes(workdir.versions_of("desk"), planned(workdir)) == []


def test_an_unfinished_run_goes_on_with_the_new_release_and_keeps_what_has_the_same_version(tmp_path, raised):
    workdir = filled(tmp_path, until="bundle")
    versions = raised("bundle")
    assert planned(workdir) == versions
    graph = graph_of(DESK, workdir.manifests(), versions=versions)
    assert {node.kind for node in graph.nodes if node.state is NodeState.DONE} == {
        "prepare",
        "base",
        "baseline",
        "filter",
    }


def test_servers_can_be_tested_later_on_results_of_an_older_release(tmp_path, raised):
    workdir = filled(tmp_path, until="verify")
    raised("mixture", "ledger")
    versions = planned(workdir)
    graph = graph_of(DESK, workdir.manifests(), versions=versions)
    assert [node.name for node in graph.nodes if node.state is NodeState.READY] == ["verify", "ledger"]
    assert (versions["mixture"], versions["ledger"]) == (VERSIONS["mixture"], VERSIONS["ledger"] + 1)


def test_collection_keeps_what_a_folder_of_an_older_release_uses(workdir, raised, monkeypatch):
    monkeypatch.setattr(gc, "VERSIONS", raised(*VERSIONS))
    assert gc.find_unused(workdir).artifacts == ()
