"""From a study and its model to the arms, and to the model of every run. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multitask_api.errors import InvalidResource, Problem
from multitask_api.resource import MultiTaskModel
from multitask_api.resource.parsing import check
from multitask_operator.formatting import listed
from multitask_operator.study.fields import field_problems
from multitask_operator.study.spec import Study

NO_EARLY_STOP = 1_000_000
"""``minSteps`` of stages 2 and 3: an arm that stops early has fewer rows than the others."""
MOST_VALIDATIONS = 20
"""Validations of each training run: as many checkpoints to choose from, however many groups there are."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One recipe. ``changes``: field of the spec → its value in this arm."""

    name: str
    changes: Mapping[str, Any]
    model: MultiTaskModel


@dataclass(frozen=True)
class Run:
    """An arm with one seed of stages 2 and 3."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.arm.name}, seed {self.seed}"

    def model(self, total_steps: int | None) -> MultiTaskModel:
        """The model of this run; ``total_steps``: of stages 2 and 3, None while they are not known."""
        return at_equal_cost(self.arm.model, self.seed, total_steps)


def names_of_runs(runs: Sequence[Run], of_study: Sequence[Run]) -> str:
    """The arms of ``runs``, and their seeds if the study has others; without runs it is all of the study."""
    if not runs:
        return "all arms"
    arms, seeds = list(dict.fromkeys(run.arm.name for run in runs)), sorted({run.seed for run in runs})
    if len(set(runs)) < len(arms) * len(seeds):  # not each of these arms with each of these seeds
        return "; ".join(names_of_runs([run for run in runs if run.arm.name == arm], of_study) for arm in arms)
    named = "all arms" if len(arms) == len({run.arm.name for run in of_study}) else listed(arms, 2)
    if len(seeds) == len({run.seed for run in of_study}):
        return named
    return f"{named}, {'seed' if len(seeds) == 1 else 'seeds'} {listed([str(seed) for seed in seeds])}"


def arms_of(study: Study, document: Mapping[str, Any]) -> tuple[Arm, ...]:
    """The arms of ``study``, the reference first, as changes of a valid model ``document``.

    Raises InvalidResource with the problems of all arms, each once, under the names of the arms that have it.
    """
    problems = [*field_problems(_named_fields(study)), *_unfit(check(document))]
    if problems:
        raise InvalidResource(problems)
    arms: list[Arm] = []
    refused: dict[Problem, list[str]] = {}
    for name, patch in _patches(study):
        changed = dict(document) | {"spec": merged(document["spec"], patch)}
        try:
            model = check(changed)
        except InvalidResource as error:
            for item in error.problems:
                refused.setdefault(item, []).append(name)
            continue
        twin = next((arm.name for arm in arms if arm.model.spec == model.spec), None)
        if twin is not None:
            problems.append(Problem(f"arm {name}", f"is the same as arm {twin}; remove one"))
        arms.append(Arm(name, dict(leaves(patch)), model))
    for item, names in refused.items():
        of = "arm" if len(names) == 1 else "arms"
        problems.append(Problem(f"{of} {listed(names)}: {item.path}", item.message))
    if problems:
        raise InvalidResource(problems)
    return tuple(arms)


def runs_of(study: Study, arms: Sequence[Arm]) -> tuple[Run, ...]:
    """Every arm with every seed: all arms with the first seed first, so that what is stopped can be compared."""
    first = arms[0].model.spec.training.seed
    return tuple(Run(arm, first + index) for index in range(study.seeds) for arm in arms)


def at_equal_cost(model: MultiTaskModel, seed: int, total_steps: int | None) -> MultiTaskModel:
    """``model`` with a seed of stages 2 and 3, no early stopping there, and equal steps and validations.

    The seeds of everything before are those of the model: all runs are compared with the same baselines.
    """
    stages = model.spec.stages
    of_run = {"seed": seed, "min_steps": NO_EARLY_STOP}
    changes: dict[str, object] = {
        "high_resource": stages.high_resource.model_copy(update=of_run),
        "mixture": stages.mixture.model_copy(update=of_run),
    }
    if total_steps is not None:
        validations = min(MOST_VALIDATIONS, max(1, total_steps // model.spec.training.eval_every))
        changes |= {"total_steps": total_steps, "validations": stages.validations or validations}
    spec = model.spec.model_copy(update={"stages": stages.model_copy(update=changes)})
    return model.model_copy(update={"spec": spec})


def merged(target: Any, patch: Any) -> Any:
    """``target`` with a JSON merge patch (RFC 7396) applied: null removes a field, a mapping changes fields in it."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def leaves(patch: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields that a merge patch sets, as (path, value); ``path`` stands before their names."""
    for name, value in patch.items():
        below = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and value:
            yield from leaves(value, below)
        else:
            yield below, value


def _patches(study: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of every arm, and its changes of the spec."""
    for arm in study.arms:
        yield arm.name, dict(arm.spec)
    if study.parameters:
        short = _short_names(list(study.parameters))
        for values in itertools.product(*(parameter.values for parameter in study.parameters.values())):
            patch: dict[str, Any] = {}
            for path, value in zip(study.parameters, values, strict=True):
                patch = merged_keeping_null(patch, nested(path, value))
            yield ",".join(f"{short[path]}={_text(value)}" for path, value in zip(short, values, strict=True)), patch


def nested(path: str, value: Any) -> dict[str, Any]:
    """``stages.mixture`` and a value as ``{"stages": {"mixture": value}}``."""
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


def merged_keeping_null(patch: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two patches as one; a null stays, because the patch that results is applied later."""
    result = dict(patch)
    for name, value in other.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), dict)
        result[name] = merged_keeping_null(result[name], value) if both else value
    return result


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Path → its last part, or the whole path where two end alike."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _named_fields(study: Study) -> Iterator[tuple[str, str]]:
    """Where in the study fields of the model are named, and which."""
    for path in study.parameters:
        yield f"parameters.{path}", path
    for index, arm in enumerate(study.arms):
        for path, _ in leaves(arm.spec):
            yield f"arms[{index}].spec.{path}", path


def _unfit(model: MultiTaskModel) -> Iterator[Problem]:
    """What a valid model may have and a study may not."""
    spec = model.spec
    if spec.stages.mixture.start is not None:
        yield Problem(
            "spec.stages.mixture.start", "an arm would begin with the weights of another one; remove it for the study"
        )
    if not spec.stages.baseline.enabled and not any(task.baseline for task in spec.tasks):
        yield Problem(
            "spec.stages.baseline.enabled", "arms are compared by their ratio to the baselines; set it to true"
        )
