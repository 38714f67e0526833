"""The revision of the newest training and pod settings, and its record if it has to be made. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multitask_api.routes import TaskRoute
from multitask_api.serving_io.names import IMAGE_ANNOTATION
from multitask_api.types import JsonDict
from multitask_operator.objects.serving.pods import ServerSettings, server_template
from multitask_operator.objects.serving.revisions import revision_configmap
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.serving.routes import status_of
from multitask_operator.reconciler.serving.trained import TrainedRevision
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.revision_state import RevisionState
from multitask_operator.settings import Settings


@dataclass(frozen=True)
class NewestRevision:
    """What the rollout leads to, unless somebody pins another one."""

    name: str | None
    """None: there is none yet."""
    configmap: JsonDict | None = None
    """Its record, if that has to be created."""
    blocker: Blocker | None = None
    """Why it cannot be made."""


def newest_revision(
    state: ModelState, settings: Settings, revisions: Mapping[str, RevisionState], route: TaskRoute | None
) -> NewestRevision:
    """The revision of the trained result; while there is none for this generation, the one that served last.

    Raises UserError for pods that the spec cannot ask for.
    """
    last = _last(revisions, route)
    trained = TrainedRevision.of(state)
    if trained is None:
        return NewestRevision(last.name if last is not None else None)
    adopted = state.cluster.annotations.get(IMAGE_ANNOTATION)
    if adopted is None and last is not None:
        adopted = last.adopted  # to remove the annotation asks for nothing
    name = trained.revision_name(state.model.spec, adopted)
    known = revisions.get(name)
    if known is not None and known.record is not None:
        return NewestRevision(name)
    if not settings.are_known:
        return NewestRevision(last.name if last is not None else None)
    return _new(state, settings, trained, name, adopted, known)


def server_settings(settings: Settings, image: str) -> ServerSettings:
    """What the installation sets for servers of ``image``."""
    return ServerSettings(image, settings.image_pull_policy, settings.fixed_user, settings.serving_pods)


def _last(revisions: Mapping[str, RevisionState], route: TaskRoute | None) -> RevisionState | None:
    """What the latest rollout led to, else the last one that was made."""
    rollout = status_of(route).rollout
    recorded = {name: revision for name, revision in revisions.items() if revision.record is not None}
    if rollout is not None and rollout.revision in recorded:
        return recorded[rollout.revision]
    return next(iter(recorded.values()), None)


def _new(
    state: ModelState,
    settings: Settings,
    trained: TrainedRevision,
    name: str,
    adopted: str | None,
    known: RevisionState | None,
) -> NewestRevision:
    # Servers of the name without their record: somebody deleted it. It is made again as it was.
    image = (known.image if known is not None else None) or settings.serving_image
    if not image:
        text = "the installation names no serving image, so that nothing can be served; set it in the chart's values"
        return NewestRevision(None, blocker=Blocker("ServingImageMissing", text))
    template = known.template if known is not None else None
    if template is None:
        servers = server_settings(settings, image)
        template = server_template(state.owner, state.model.spec, name, trained.bundle_bytes, servers)
    record = trained.record(state, name, image)
    return NewestRevision(name, revision_configmap(state.owner, record, template, adopted))
