"""``stages.mixture.start: Previous``: which earlier mixture of its group a mixture begins with. Pure.

In this order:

1. A mixture of the same inputs is finished: it is the result, whatever it began with. What it read names its start, so
   that its digest can be worked out without the start, which may be deleted.
2. The latest finished mixture of the model's group is the start, if it has a task of the group, the same base model,
   and weights of the same form (`weights_form`).
3. There is none: the mixture starts cold, exactly as without ``start``.

Only the mixture itself adds a mixture of the group to storage while a run goes on, so the choice stays what it was. A
warm start takes the place of stage 2, whose rows the earlier mixture has had.
"""

from __future__ import annotations

from collections.abc import Sequence

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.mixture_start import MixtureStart
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stages.digests import digest
from multitask_api.stages.group_models import is_own_baseline
from multitask_api.stages.node_table import NodeTable
from multitask_api.stages.nodes import Node, NodeState, Ref, Start

FORM = "form"
"""The output of a mixture whose digest is `weights_form`; those of releases before it have none."""
FINISHED = "finished"
"""Key of a manifest's ``environment``: when the stage ended, in UTC; a later time is a greater text."""
_BASE = Ref("base", "model")


def weights_form(tuning: Tuning) -> str:
    """A digest of what two runs must have in common for one to go on with the weights of the other.

    ``tuning``: the settings of a group (`Tuning.for_group`). With CGC-LoRA the number of tasks is no part of it, the
    rank of an expert is. The factor of an adapter's output is one too: with another, the weights are another model.
    """
    if tuning.method == "Full":
        return digest({"method": "Full"})
    form: dict[str, object] = {
        "method": tuning.method,
        "scaling": tuning.scaling,
        "targetModules": sorted(tuning.target_modules),
    }
    if tuning.has_experts:
        form |= {
            "expertRank": tuning.expert_rank,
            "commonExperts": tuning.common_experts,
            "specificExperts": tuning.specific_experts,
            "gate": tuning.gate,
        }
    else:
        form["rank"] = tuning.rank
    return digest(form)


def start_from_previous(
    table: NodeTable,
    model: str,
    spec: MultiTaskModelSpec,
    group: str,
    tasks: Sequence[str],
    parameters: TrainParameters | None,
) -> None:
    """Give the mixture of ``group``, added without a start, the start that ``spec`` asks for, and skip its stage 2.

    ``parameters``: those of the mixture; None while they depend on results that are missing.
    """
    if spec.stages.mixture.start is None or is_own_baseline(table, tasks):
        return
    name, stage2 = f"mixture/{group}", f"high-resource/{group}"
    without = table.nodes[name]
    reads = [ref for ref in without.reads if ref.stage != stage2]
    stored = _newest_first(table, name)
    same = [manifest for manifest in stored if _is_same(manifest, table, reads, parameters, stage2)]
    cold = tuple(manifest for manifest in same if _start_of(manifest) is None)
    warm = [(manifest, start) for manifest in same if (start := _start_of(manifest)) is not None]
    if warm:
        manifest, record = warm[0]
        chosen = _begin_with(name, record.digest, manifest.read_outputs[_own(name)], record.tasks)
    elif cold:
        _keep(table, cold[0], without, reads, parameters, stage2)
        return
    else:
        own = [manifest for manifest in stored if _bare(manifest.model or model) == _bare(model)]
        chosen = _latest(own, table, spec.tuning, tasks, name)
    if chosen.key is None:
        table.set_start(name, chosen)
        return
    chosen = Start(chosen.reason, chosen.key, chosen.output, _with_stage_2(cold, table, stage2))
    table.add(name, "mixture", parameters, reads=reads, start=chosen)
    _skip_stage_2(table, stage2, chosen)


def starts(nodes: Sequence[Node]) -> list[str]:
    """How every mixture with ``start: Previous`` that is not finished begins, a sentence each."""
    unfinished = (node for node in nodes if node.state is not NodeState.DONE)
    return [f"{node.name} {node.start.reason}" for node in unfinished if node.start is not None]


def _keep(
    table: NodeTable,
    manifest: Manifest,
    without: Node,
    reads: Sequence[Ref],
    parameters: TrainParameters | None,
    stage2: str,
) -> None:
    """Make ``manifest``, which started cold, the result, also if it began with another stage 2 than there would be."""
    start, name = Start("is finished already; it started cold"), without.name
    if without.manifest is not None:
        table.set_start(name, start)
        return
    first = _first_weights(manifest, stage2)
    table.nodes[name] = table.node(name, "mixture", parameters, reads=reads, also_read=first, start=start)
    _skip_stage_2(table, stage2, start)


def _skip_stage_2(table: NodeTable, stage2: str, start: Start) -> None:
    if table.nodes[stage2].state is not NodeState.SKIPPED:
        table.skip(stage2, "high-resource", needs=("filter",), reason=f"the mixture {start.reason}")


def _latest(stored: Sequence[Manifest], table: NodeTable, tuning: Tuning, tasks: Sequence[str], name: str) -> Start:
    """The newest of ``stored`` that fits, else why the newest one does not."""
    base = table.output(_BASE)
    if base is None:
        return Start("begins with an earlier mixture, if one fits: that is known once the base model is there")
    reasons = []
    for manifest in stored:
        reason = _misfit(manifest, base, tuning, tasks)
        if reason is None:
            return _begin_with(name, manifest.digest, manifest.outputs["model"], tasks_of(manifest))
        reasons.append(f"starts cold: {manifest.digest}, its latest mixture, {reason}")
    return Start(reasons[0] if reasons else "starts cold: there is no earlier mixture of this group in storage")


def _misfit(manifest: Manifest, base: str, tuning: Tuning, tasks: Sequence[str]) -> str | None:
    """Why the weights of ``manifest`` are no start for a mixture of ``tasks``; None if they are."""
    earlier = tasks_of(manifest)
    if manifest.read_outputs.get(str(_BASE)) != base:
        return "is of another base model"
    if not set(earlier) & set(tasks):
        return f"has none of its tasks ({', '.join(earlier)})"
    form = manifest.outputs.get(FORM)
    if form == weights_form(tuning.for_group(tasks)):
        return None
    if form is None:
        return "is of a release that did not record what kind of weights it has"
    if tuning.has_experts and tuning.rank_problem(len(earlier)) is None:
        as_before = tuning.for_group(earlier)
        if as_before.has_experts and weights_form(as_before) == form:
            return (
                f"has experts of rank {as_before.expert_rank}, and with {len(tasks)} tasks they have rank"
                f" {tuning.expert_rank_in(len(tasks))}; set tuning.expertRank: {as_before.expert_rank} to keep them"
            )
    return (
        "has other adapters; to begin with them, set method, rank, alpha, useRslora, targetModules and the experts in"
        " spec.tuning as they were when it was trained"
    )


def _begin_with(name: str, digest_: str, output: str, tasks: Sequence[str]) -> Start:
    return Start(f"begins with {name} {digest_}, trained on {', '.join(tasks)}", (name, digest_), output)


def _is_same(
    manifest: Manifest, table: NodeTable, reads: Sequence[Ref], parameters: TrainParameters | None, stage2: str
) -> bool:
    """Whether ``manifest`` is of the mixture that reads ``reads``, whatever it began with."""
    first = _first_weights(manifest, stage2)
    return manifest.digest == table.node(manifest.stage, "mixture", parameters, reads=reads, also_read=first).digest


def _first_weights(manifest: Manifest, stage2: str) -> dict[str, str]:
    """The outputs that a finished mixture began with: of an earlier one, or of its stage 2."""
    outputs = (_own(manifest.stage), str(Ref(stage2, "model")))
    return {output: value for output, value in manifest.read_outputs.items() if output in outputs}


def _newest_first(table: NodeTable, name: str) -> list[Manifest]:
    """The finished mixtures of this stage."""
    stored = [manifest for (stage, _), manifest in table.manifests.items() if stage == name]
    return sorted(stored, key=lambda item: (item.environment.get(FINISHED, ""), item.digest), reverse=True)


def _start_of(manifest: Manifest) -> MixtureStart | None:
    record = manifest.result.get("start")
    return None if record is None else MixtureStart.model_validate(record)


def tasks_of(manifest: Manifest) -> tuple[str, ...]:
    """The tasks that a mixture, and what it began with, was trained on, sorted."""
    own = {ref.split("/")[1].partition("#")[0] for ref in manifest.read_outputs if ref.startswith("prepare/")}
    start = _start_of(manifest)
    return tuple(sorted(own.union(start.tasks if start else ())))


def _bare(model: str) -> str:
    """In a cluster the name of a model follows its namespace."""
    return model.rpartition("/")[2]


def _own(name: str) -> str:
    return str(Ref(name, "model"))


def _with_stage_2(cold: Sequence[Manifest], table: NodeTable, stage2: str) -> tuple[Manifest, ...]:
    """The newest of ``cold``, after the stage 2 that it began with."""
    if not cold:
        return ()
    weights = cold[0].read_outputs.get(_own(stage2))
    if weights is None:
        return (cold[0],)
    before = [item for (stage, _), item in table.manifests.items() if stage == stage2]
    return (*(item for item in before if item.outputs.get("model") == weights), cold[0])
