"""Arms that differ in their file and come to the same training: a field that changes nothing for their model. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.tuning import Tuning
from multitask_api.stages import Graph, Node, groups
from multitask_api.stages.digests import digest
from multitask_operator.formatting import listed
from multitask_operator.study.graphs import Target


def same_training(targets: Sequence[Target]) -> dict[str, str]:
    """Arm → the first arm before it that comes to the same training; only arms that have one.

    By what stages 2 and 3 read once the filter has planned them, before that by the spec: then some equal arms may not
    be found yet. Names of groups are not compared, they change no weight.
    """
    arms: dict[str, Target] = {}
    for target in targets:
        if target.run is not None:
            arms.setdefault(target.run.arm.name, target)  # the seeds of an arm differ from each other alike
    of_spec = {name: _of_spec(target.model.spec) for name, target in arms.items()}
    of_graph = {name: _of_graph(target.graph) for name, target in arms.items()}
    found: dict[str, str] = {}
    names = list(arms)
    for index, name in enumerate(names):
        for earlier in names[:index]:
            known = of_graph[name] is not None and of_graph[name] == of_graph[earlier]
            if earlier not in found and (known or of_spec[name] == of_spec[earlier]):
                found[name] = earlier
                break
    return found


def same_notes(same: Mapping[str, str]) -> Iterator[str]:
    """What people are told of the arms that `same_training` found: one text, if there are any."""
    found = [
        f"{listed([arm for arm, other in same.items() if other == first])} the same as {first}"
        for first in dict.fromkeys(same.values())
    ]
    if found:
        yield (
            f"same training: {'; '.join(found)}: the fields that differ change nothing for this model, so there is"
            " nothing to compare; take such arms out of the study, or vary another field"
        )


def _of_graph(graph: Graph) -> str | None:
    """A digest of what a run trains; None while the filter has not planned it, or the base is not known."""
    if "filter" not in graph or graph["filter"].manifest is None or graph["base"].digest is None:
        return None
    baselines = [[node.name, node.digest] for node in graph.of_kind("baseline")]
    trained = []
    for tasks, group in sorted((tasks, group) for group, tasks in graph.groups.items()):
        stage2, mixture = graph[f"high-resource/{group}"], graph[f"mixture/{group}"]
        if mixture.parameters is None and mixture.stand_in is None:
            return None
        trained.append([list(tasks), _identity(stage2), _identity(mixture), mixture.stand_in])
    return digest([graph["base"].digest, baselines, trained])


def _identity(node: Node) -> Mapping[str, object] | None:
    return None if node.parameters is None else node.parameters.identity()


def _of_spec(spec: MultiTaskModelSpec) -> str:
    """A digest of the fields that arms may differ in, without those that are not read beside the others."""
    found, tuning = sorted(groups(spec).values()), spec.tuning
    is_open = spec.filtering.strategy == "Affinity"  # the groups are found later
    stage2, mixture = spec.stages.high_resource, spec.stages.mixture
    return digest(
        {
            "groups": [list(tasks) for tasks in found],
            "affinity": spec.filtering.to_json() if is_open else None,
            "pretraining": spec.pretraining.to_json() if spec.pretraining is not None else None,
            "training": spec.training.to_json(),
            "baselines": _tuning(tuning.for_baseline()),
            "tuning": [_tuning(tuning if is_open else tuning.for_group(tasks)) for tasks in found],
            "stage 2": stage2.to_json() if stage2.enabled else None,
            # A task that is alone is drawn whatever the rates are.
            "mixture": mixture.to_json() if is_open or any(len(tasks) > 1 for tasks in found) else None,
        }
    )


def _tuning(tuning: Tuning) -> Mapping[str, object]:
    """With Full no other field is read."""
    return {"method": "Full"} if tuning.method == "Full" else tuning.to_json()
