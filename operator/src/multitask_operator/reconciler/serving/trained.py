"""What training hands to serving: the result of the stage ``export``, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from multitask_api.bundle import BASELINE
from multitask_api.cluster import qualified_name
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.tasks import TaskSpec
from multitask_api.serving_io.revision import Revision, RevisionTask
from multitask_api.stage_io.results import ExportResult, ServedBy, TaskVerdict
from multitask_api.stages import Graph
from multitask_api.stages.digests import digest
from multitask_api.template import fields_of
from multitask_operator.objects.orders import artifact_path
from multitask_operator.objects.serving.pods import given_for_servers
from multitask_operator.objects.volumes import storage_location
from multitask_operator.planner import verdicts_of
from multitask_operator.reconciler.state.model_state import ModelState


@dataclass(frozen=True)
class TrainedRevision:
    """A promoted result that is complete, of this generation's spec and data."""

    name: str
    """As the export and the bundle name it."""
    bundle_digest: str
    artifact: str
    """Folder of the exported result, relative to storage."""
    bundle_bytes: int
    tasks: tuple[RevisionTask, ...]
    test_data: dict[str, str]

    @classmethod
    def of(cls, state: ModelState) -> TrainedRevision | None:
        """None: nothing is trained for this generation yet, or the result was not promoted."""
        node = state.plan.graph["export"]
        manifest = node.manifest
        if not state.is_resolved or manifest is None or node.digest is None:
            return None
        export = ExportResult.model_validate(manifest.result)
        if not export.promoted:
            return None
        folder = artifact_path((node.name, node.digest))
        return cls(
            name=export.revision,
            bundle_digest=manifest.outputs["bundle"],
            artifact=f"{folder}/{manifest.folder}" if manifest.folder else folder,
            bundle_bytes=sum(export.models.values()),
            tasks=tuple(_tasks(state.model.spec, export, verdicts_of(state.plan.graph))),
            test_data=_test_data(state.plan.graph),
        )

    def revision_name(self, spec: MultiTaskModelSpec, adopted: str | None) -> str:
        """The name of the revision that serves it with the pods of ``spec``.

        The image of the servers is no part of it, so that a newer release changes no name; ``adopted`` is: the
        annotation that asks for a revision with the image of the installed release.
        """
        parts = {"bundle": self.bundle_digest, "pods": given_for_servers(spec), "adopted": adopted}
        return digest(parts, 8)

    def record(self, state: ModelState, name: str, image: str) -> Revision:
        """The record of the revision ``name`` that serves it with servers of ``image``."""
        return Revision(
            revision=name,
            model=qualified_name(state.cluster.namespace, state.cluster.name),
            trained=self.name,
            generation=state.cluster.generation,
            storage=storage_location(state.model.spec),
            artifact=self.artifact,
            bundle_digest=self.bundle_digest,
            bundle_bytes=self.bundle_bytes,
            image=image,
            tasks=self.tasks,
            test_data=self.test_data,
        )


def _tasks(spec: MultiTaskModelSpec, export: ExportResult, verdicts: dict[str, TaskVerdict]) -> Iterator[RevisionTask]:
    """Those that the revision answers."""
    served = {task.task: task for task in export.tasks if task.served_by is not None}
    for task in spec.tasks:
        if task.name in served:
            yield _task(task, served[task.name], verdicts.get(task.name))


def _task(task: TaskSpec, served: ServedBy, verdict: TaskVerdict | None) -> RevisionTask:
    fields, labels = fields_of(task.prompt or ""), tuple(str(label) for label in task.labels)
    baseline = verdict.baseline if verdict else None
    by_baseline = served.served_by == BASELINE
    score = baseline if by_baseline else verdict.score if verdict else None
    return RevisionTask(
        name=task.name,
        type=task.type,
        fields=fields,
        labels=labels,
        served_by=served.served_by or "",
        metric=task.resolved_metric,
        score=score,
        baseline=baseline,
        verdict=verdict.verdict if verdict else None,
        contract=digest([task.type, sorted(fields), list(labels)]),
    )


def _test_data(graph: Graph) -> dict[str, str]:
    return {
        node.name.partition("/")[2]: node.manifest.outputs["test"]
        for node in graph.of_kind("prepare")
        if node.manifest is not None and "test" in node.manifest.outputs
    }
