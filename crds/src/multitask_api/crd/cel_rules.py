"""What a schema cannot say, in CEL: checked by the API server at admission, before any of our code runs.

The same rules stand in Python in ``resource`` (for files, and for ``mtm``), which checks more: what CEL cannot say only
``mtm`` refuses. Every list and string that a rule walks over has a bound, or the API server refuses the rule for its
estimated cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from multitask_api.resource.tasks import CLASSIFICATION_METRICS, RESERVED_GROUPS
from multitask_api.uris import BASE_SCHEMES, BUILTIN_SCHEME, BUILTIN_SIZES, DATA_SCHEMES, STORES


class Rule(NamedTuple):
    """A CEL expression over ``self``, and what is said when it is false."""

    rule: str
    message: str


_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*://"


def _address(schemes: tuple[str, ...]) -> tuple[Rule, ...]:
    known = ", ".join(f"{scheme}://" for scheme in schemes)
    rules = [
        Rule(
            f"!self.matches('^{_SCHEME}') || self.matches('^(?i:{'|'.join(schemes)})://')",
            f"unknown scheme; known: {known}",
        ),
        Rule(rf"!self.matches(r'^(\s*|{_SCHEME}/*)$')", "names no path"),
    ]
    rules += [
        Rule(f"!self.matches('^(?i:{scheme})://') || self.matches(r'^{scheme}://{rest}$')", message)
        for scheme, rest, message in (
            ("pvc", r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?", "does not name a claim; write pvc://CLAIM/PATH"),
            (
                "hf",
                r"(datasets/)?[\pL\pN_.-]+(/[\pL\pN_.-]+)?(@[^/]+)?(/.+)?",
                "does not name a hub repository; write hf://ORGANISATION/NAME",
            ),
        )
        if scheme in schemes
    ]
    return tuple(rules)


_METRICS = ", ".join(f"'{metric}'" for metric in CLASSIFICATION_METRICS)
_RESERVED = ", ".join(f"'{group}'" for group in RESERVED_GROUPS)
_SPEC = (
    Rule("self.storage.uri == oldSelf.storage.uri", "storage.uri cannot be changed; create another MultiTaskModel"),
    Rule(
        "self.qualification.rule != 'LowerBound' || self.stages.baseline.seeds >= 2",
        "qualification.rule LowerBound needs stages.baseline.seeds of 2 or more",
    ),
    Rule(
        "self.filtering.strategy != 'Manual' || self.tasks.all(task, has(task.group))",
        "filtering.strategy Manual needs a group for every task",
    ),
    Rule(
        "self.tasks.all(task, !has(task.generation) || task.generation.maxNewTokens + 2 <= self.training.maxLength)",
        "the generation.maxNewTokens of a task leave no room for a prompt in training.maxLength",
    ),
)
_BUILTIN_URIS = ", ".join(repr(BUILTIN_SCHEME + size) for size in BUILTIN_SIZES)
_BUILTIN = Rule(
    f"!self.matches('^(?i:{BUILTIN_SCHEME})') || self in [{_BUILTIN_URIS}]",
    f"no such built-in base; the sizes are {', '.join(BUILTIN_SIZES)}",
)
_HUB_BASE = Rule(
    "!self.matches('^hf://(datasets/|[^/]+/[^/]+/|.*@)')",
    "a base is a whole repository of the hub, hf://ORGANISATION/NAME; its revision stands beside it, in revision",
)
# The pieces of a prompt, as `template` reads them: characters, braces written twice, fields.
_TEXT, _FIELD = "[^{}]|[{][{]|[}][}]", r"[{][\pL\p{Nl}\p{No}_][\pL\pN_]*[}]"
_TASK = (
    Rule("has(self.prompt) != has(self.promptFrom)", "give exactly one of prompt and promptFrom"),
    Rule(
        f"!has(self.prompt) || self.prompt.matches(r'^({_TEXT}|{_FIELD})*$')",
        "a brace in the prompt belongs to no field, as in {text}; write it twice for the brace itself",
    ),
    Rule(
        f"!has(self.prompt) || self.prompt.matches(r'^({_TEXT})*[{{][^{{}}]')",
        "the prompt names no field, as in {text}",
    ),
    Rule(
        "self.type != 'Classification' || has(self.labelsFrom) || (has(self.labels) && self.labels.size() >= 2)",
        "a Classification task needs at least two labels",
    ),
    Rule(
        "!has(self.labelsFrom) || !has(self.labels) || self.labels.size() == 0", "give labels or labelsFrom, not both"
    ),
    Rule(
        "self.type != 'Generation' || (!has(self.labelsFrom) && (!has(self.labels) || self.labels.size() == 0))",
        "a Generation task has no labels",
    ),
    Rule("self.type == 'Classification' || !has(self.taxonomy)", "only a Classification task has a taxonomy"),
    Rule("self.type == 'Generation' || !has(self.generation)", "only a Generation task has generation"),
    Rule(
        "!has(self.taxonomy) || self.taxonomy != 'Binary' || !has(self.labels) || self.labels.size() <= 2",
        "taxonomy Binary means two labels",
    ),
    Rule(
        f"!has(self.metric) || (self.type == 'Classification') == (self.metric in [{_METRICS}])",
        "this metric does not judge this type of task",
    ),
    Rule(f"!has(self.group) || !(self.group in [{_RESERVED}])", "group is a name that serving uses itself"),
)

MODEL_RULES: Mapping[str, tuple[Rule, ...]] = {
    "spec": _SPEC,
    "spec.baseModel.uri": (*_address(BASE_SCHEMES), _HUB_BASE, _BUILTIN),
    "spec.storage.uri": _address(STORES),
    "spec.tasks[]": _TASK,
    "spec.tasks[].labels[]": (Rule("self == self.trim()", "begins or ends with white space; remove it"),),
    "spec.tasks[].data.train.uri": _address(DATA_SCHEMES),
    "spec.tasks[].data.validation.uri": _address(DATA_SCHEMES),
    "spec.tasks[].data.test.uri": _address(DATA_SCHEMES),
    "spec.pretraining": (
        Rule("self.tasksText || (has(self.corpus) && self.corpus.size() > 0)", "without tasksText it needs a corpus"),
    ),
    "spec.pretraining.corpus[].uri": _address(DATA_SCHEMES),
    "spec.serving.rollout.steps": (
        Rule(
            # an empty list is refused by its length; no rule may reach behind its end
            "self.size() == 0 || (self.isSorted() && self.all(step, self.exists_one(other, other == step))"
            " && self[self.size() - 1] == 100)",
            "must rise to 100",
        ),
    ),
}
ROUTE_RULES: Mapping[str, tuple[Rule, ...]] = {
    "spec.tasks[].backends": (
        Rule("self.map(backend, backend.weight).sum() == 100", "the weights of a task must sum to 100"),
    ),
}
