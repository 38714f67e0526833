"""Rules between fields, in CEL: the API server checks them at admission, before any of our code runs.

``multitask_api.resource`` has the same rules in Python, and more: what CEL cannot express is checked by ``mtm`` and the
operator only. Every list and string that a rule iterates over has a maximum length; without one the API server rejects
the rule because of its estimated cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from multitask_api.resource.tasks import CLASSIFICATION_METRICS, RESERVED_GROUPS
from multitask_api.uris import (
    BASE_MODEL_SCHEMES,
    BUILTIN_SCHEME,
    BUILTIN_SIZES,
    DATA_SCHEMES,
    GGUF_FILE,
    GGUF_PART,
    STORAGE_SCHEMES,
)


class Rule(NamedTuple):
    """A CEL expression over ``self``, and the message if it is false."""

    rule: str
    message: str


_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*://"


def _uri_rules(schemes: tuple[str, ...]) -> tuple[Rule, ...]:
    supported = ", ".join(f"{scheme}://" for scheme in schemes)
    rules = [
        Rule(
            f"!self.matches('^{_SCHEME}') || self.matches('^(?i:{'|'.join(schemes)})://')",
            f"unknown scheme; supported: {supported}",
        ),
        Rule(rf"!self.matches(r'^(\s*|{_SCHEME}/*)$')", "has no path; add one"),
    ]
    rules += [
        Rule(f"!self.matches('^(?i:{scheme})://') || self.matches(r'^{scheme}://{rest}$')", message)
        for scheme, rest, message in (
            (
                "pvc",
                r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?",
                "does not name a PersistentVolumeClaim; write pvc://CLAIM/PATH",
            ),
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
        "filtering.strategy: Manual needs a group for every task; add one",
    ),
    Rule(
        "self.filtering.strategy == 'Affinity' || !(has(self.filtering.maxGroups) || has(self.filtering.rows)"
        " || has(self.filtering.diagnosis))",
        "filtering.maxGroups, filtering.rows and filtering.diagnosis are for strategy Affinity; remove them",
    ),
    Rule(
        "!has(self.filtering.maxGroups) || self.filtering.maxGroups >= 2"
        " || self.tasks.all(task, task.type == self.tasks[0].type)",
        "filtering.maxGroups is fewer than the types of tasks, which are never trained together; raise it",
    ),
    Rule(
        "!has(self.training.optimizer) || self.training.optimizer != 'AdamW8bit' || self.tuning.method != 'CGCLoRA'",
        "training.optimizer: AdamW8bit is not for tuning.method CGCLoRA; remove it or set another method",
    ),
    Rule(
        "!has(self.training.sharding) || self.training.sharding != 'Always' || !(has(self.tuning.quantization) ||"
        " (has(self.training.optimizer) && self.training.optimizer == 'AdamW8bit'"
        " && (self.tuning.method == 'Full' || has(self.pretraining))))",
        "training.sharding: Always divides neither the moments of AdamW8bit nor a base in 4 bits; remove one of them",
    ),
    Rule(
        "self.tasks.all(task, !has(task.generation) || task.generation.maxNewTokens + 2 <= self.training.maxLength)",
        "generation.maxNewTokens of a task leaves no room for a prompt in training.maxLength; change one",
    ),
)
_BUILTIN_URIS = ", ".join(repr(BUILTIN_SCHEME + size) for size in BUILTIN_SIZES)
_BUILTIN = Rule(
    f"!self.matches('^(?i:{BUILTIN_SCHEME})') || self in [{_BUILTIN_URIS}]",
    f"there is no such built-in model; the sizes are {', '.join(BUILTIN_SIZES)}",
)
_HUB_BASE = Rule(
    "!self.matches('^hf://(datasets/|[^/]+/[^/]+/|.*@)')",
    "give a whole model repository of the hub, hf://ORGANISATION/NAME, and its revision in the field revision",
)
_GGUF_URI = Rule(
    "!self.endsWith('.gguf') || self.matches('^hf://[^/]+(/[^/]+)?$')",
    "names a GGUF file; give its folder or repository, and the file's name in the field ggufFile",
)
_GGUF_FILE = (
    Rule(
        f"self.matches('{GGUF_FILE}') && !self.matches('(^|/)[.][.]/')",
        "this is no name of a GGUF file; write NAME.gguf, or FOLDER/NAME.gguf below baseModel.uri",
    ),
    Rule(f"!self.matches('{GGUF_PART}')", "this is one part of a split model; join the parts first"),
)
# The parts of a prompt, as `multitask_api.template` reads them: characters, doubled braces, fields.
_TEXT, _FIELD = "[^{}]|[{][{]|[}][}]", r"[{][\pL\p{Nl}\p{No}_][\pL\pN_]*[}]"
_TASK = (
    Rule("has(self.prompt) != has(self.promptFrom)", "set exactly one of prompt and promptFrom"),
    Rule(
        f"!has(self.prompt) || self.prompt.matches(r'^({_TEXT}|{_FIELD})*$')",
        "the prompt has a brace that is not part of a field such as {text}; write {{ or }} for a brace",
    ),
    Rule(
        f"!has(self.prompt) || self.prompt.matches(r'^({_TEXT})*[{{][^{{}}]')",
        "the prompt contains no field; add one, for example {text}",
    ),
    Rule(
        "self.type != 'Classification' || has(self.labelsFrom) || (has(self.labels) && self.labels.size() >= 2)",
        "a Classification task needs at least two labels",
    ),
    Rule("!has(self.labelsFrom) || !has(self.labels) || self.labels.size() == 0", "set labels or labelsFrom, not both"),
    Rule(
        "self.type != 'Generation' || (!has(self.labelsFrom) && (!has(self.labels) || self.labels.size() == 0))",
        "a Generation task has no labels; remove them or set type: Classification",
    ),
    Rule(
        "self.type == 'Classification' || !has(self.taxonomy)", "only a Classification task has a taxonomy; remove it"
    ),
    Rule(
        "self.type == 'Generation' || !has(self.generation)",
        "only a Generation task has generation settings; remove them or set type: Generation",
    ),
    Rule(
        "!has(self.taxonomy) || self.taxonomy != 'Binary' || !has(self.labels) || self.labels.size() <= 2",
        "taxonomy: Binary needs two labels; use MultiClass or Ordinal",
    ),
    Rule(
        f"!has(self.metric) || (self.type == 'Classification') == (self.metric in [{_METRICS}])",
        "this metric is not for this type of task; choose another",
    ),
    Rule(f"!has(self.group) || !(self.group in [{_RESERVED}])", "group is a reserved name; choose another"),
)

_DATA = tuple(
    Rule(
        f"has(self.{split}) != (has(self.split) && has(self.split.{split}))",
        f"give the {split} rows, or their share of the train rows in split.{split}, and not both",
    )
    for split in ("validation", "test")
)
_SPLIT = (
    Rule("has(self.validation) || has(self.test)", "names no share; set validation or test, or remove it"),
    Rule(
        "(has(self.validation) ? self.validation : 0.0) + (has(self.test) ? self.test : 0.0) < 1.0",
        "validation and test leave no row to train on; their sum must be below 1",
    ),
)

MODEL_RULES: Mapping[str, tuple[Rule, ...]] = {
    "spec": _SPEC,
    "spec.baseModel": (
        Rule(
            f"!has(self.ggufFile) || !self.uri.startsWith('{BUILTIN_SCHEME}')",
            "a builtin:// model is created and not read from a file; remove ggufFile",
        ),
    ),
    "spec.baseModel.uri": (*_uri_rules(BASE_MODEL_SCHEMES), _HUB_BASE, _BUILTIN, _GGUF_URI),
    "spec.baseModel.ggufFile": _GGUF_FILE,
    "spec.storage.uri": _uri_rules(STORAGE_SCHEMES),
    "spec.tasks[]": _TASK,
    "spec.tasks[].labels[]": (Rule("self == self.trim()", "begins or ends with white space; remove it"),),
    "spec.tasks[].data": _DATA,
    "spec.tasks[].data.split": _SPLIT,
    "spec.tasks[].data.train.uri": _uri_rules(DATA_SCHEMES),
    "spec.tasks[].data.validation.uri": _uri_rules(DATA_SCHEMES),
    "spec.tasks[].data.test.uri": _uri_rules(DATA_SCHEMES),
    "spec.pretraining": (
        Rule(
            "self.tasksText || (has(self.corpus) && self.corpus.size() > 0)",
            "there is no text to train on; name a corpus or set tasksText: true",
        ),
    ),
    "spec.pretraining.corpus[].uri": _uri_rules(DATA_SCHEMES),
    "spec.training": (
        Rule(
            "!has(self.sharding) || self.sharding != 'Always' || self.nodes * self.gpusPerNode > 1",
            "sharding: Always needs several GPUs; raise gpusPerNode or nodes, or set Auto",
        ),
    ),
    "spec.tuning": (
        Rule(
            "self.method != 'Full' || !has(self.quantization)",
            "quantization is for a frozen base, and Full trains all weights; remove it or set another method",
        ),
        Rule(
            "self.method == 'CGCLoRA' || !(has(self.commonExperts) || has(self.specificExperts) ||"
            " has(self.expertRank) || has(self.gate))",
            "commonExperts, specificExperts, expertRank and gate are for method CGCLoRA; remove them or set it",
        ),
        Rule(
            "self.method != 'CGCLoRA' || !has(self.commonExperts) || !has(self.specificExperts) ||"
            " self.commonExperts + self.specificExperts > 0",
            "there is no expert at all; set commonExperts or specificExperts to 1 or more",
        ),
    ),
}
ROUTE_RULES: Mapping[str, tuple[Rule, ...]] = {
    "spec.tasks[].backends": (
        Rule(
            "self.map(backend, backend.weight).sum() in [0, 100]", "the weights of a task must sum to 100, or all be 0"
        ),
    ),
}
