"""Which release's stage versions a run on one machine uses: a folder that is finished stays finished."""

from __future__ import annotations

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import Resolved
from multitask_api.stages import build
from multitask_api.stages.graph import SERVING_KINDS
from multitask_api.stages.versions import VERSIONS, Versions
from multitask_operator.local.workdir import Workdir


def versions_of_run(model: MultiTaskModel, resolved: Resolved, workdir: Workdir, *, refresh: bool) -> Versions:
    """The stage versions with which ``model`` is planned in ``workdir``.

    What is finished keeps those of its last plan, unless the user asks for a ``refresh``. What is not takes those of
    this release, because the program that began it is not here any more. The stages that need servers do not count:
    they can follow later, on the same results.
    """
    recorded, manifests = workdir.versions_of(model.metadata.name), workdir.manifests()
    if recorded is None or refresh:
        return VERSIONS

    def is_finished(*, serve: bool) -> bool:
        return build(model.metadata.name, model.spec, resolved, manifests, recorded, serve=serve).finished

    if is_finished(serve=True):
        return recorded
    if is_finished(serve=False):
        return {kind: VERSIONS[kind] if kind in SERVING_KINDS else version for kind, version in recorded.items()}
    return VERSIONS


def release_notes(versions: Versions) -> list[str]:
    """That the results of a plan are those of another release, and how this one is adopted; empty if they are not."""
    kinds = _changed_kinds(versions)
    if not kinds:
        return []
    made_by = f"a release with other versions of {kinds} made these results, and they stay"
    return [f"{made_by}; an edit of what is trained, or --refresh, runs the stages of this release"]


def adoption_notes(recorded: Versions | None, versions: Versions) -> list[str]:
    """That a plan with ``versions`` runs again what another release has done; ``recorded`` are those of the plan before
    it, None: there was none. Empty if it does not."""
    kinds = _changed_kinds(recorded or VERSIONS)
    if not kinds or _changed_kinds(versions):
        return []
    return [f"another release began this run: its stages of {kinds} run again, with this one; mtm gc removes theirs"]


def _changed_kinds(versions: Versions) -> str:
    return ", ".join(sorted(kind for kind, version in VERSIONS.items() if versions.get(kind) != version))
