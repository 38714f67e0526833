"""The objects of the revisions, and which of them are missing or differ from those that exist. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects.names import Owner
from multitask_operator.objects.serving import workload
from multitask_operator.objects.serving.pods import start_seconds
from multitask_operator.objects.serving.revisions import adoption, revision_configmap
from multitask_operator.objects.serving.workload import Gateways
from multitask_operator.reconciler.actions import Action, Apply
from multitask_operator.reconciler.serving.drift import differs
from multitask_operator.reconciler.state.revision_state import RevisionState
from multitask_operator.settings import Settings


@dataclass(frozen=True)
class RevisionObjects:
    """Builds the objects of revisions; each method yields those that are missing or differ."""

    owner: Owner
    gateways: Gateways | None

    @classmethod
    def of(cls, owner: Owner, settings: Settings) -> RevisionObjects:
        """Of the installation."""
        namespace = settings.gateway_namespace
        return cls(owner, Gateways(namespace, settings.gateway_labels) if namespace else None)

    def live(self, revision: RevisionState, replicas: int) -> Iterator[Action]:
        """Everything of a revision that has servers; the pods come last, they need the others."""
        name = revision.name
        if revision.record is not None and revision.template is not None:
            wanted = revision_configmap(self.owner, revision.record, revision.template, revision.adopted)
            yield from _missing(revision.configmap, wanted)
        yield from _missing(revision.service, workload.service(self.owner, name))
        yield from _missing(revision.network_policy, workload.network_policy(self.owner, name, self.gateways))
        yield from _missing(revision.disruption_budget, workload.disruption_budget(self.owner, name))
        yield from self._deployment(revision, replicas)

    def stopped(self, revision: RevisionState) -> Iterator[Action]:
        """A revision that is kept: its servers go, its record stays."""
        if revision.deployment is not None:
            yield from self._deployment(revision, 0)

    def _deployment(self, revision: RevisionState, replicas: int) -> Iterator[Action]:
        if revision.template is None:
            return
        seconds = start_seconds(revision.record.bundle_bytes if revision.record is not None else 0)
        wanted = workload.deployment(
            self.owner, revision.name, revision.template, replicas, seconds, adoption(revision.adopted)
        )
        if revision.record is None and revision.deployment is not None:
            wanted["spec"].pop("progressDeadlineSeconds")
        yield from _missing(revision.deployment, wanted)


def _missing(existing: JsonObject | None, wanted: JsonDict) -> Iterator[Action]:
    if existing is None or differs(existing, wanted):
        yield Apply(wanted)
