from __future__ import annotations

from typing import Any

import pytest

from multitask_api.resource.parsing import check
from support.simulated_stages import document

CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("adapters over random weights", {}, True),
    ("all weights", {"tuning": {"method": "Full"}}, False),
    ("weights that are pre-trained first", {"pretraining": {"maxSteps": 9}}, False),
    ("a base of the hub", {"baseModel": {"uri": "hf://org/name"}}, False),
]


@pytest.mark.parametrize(("sentence", "spec", "hinted"), CASES, ids=[case[0] for case in CASES])
def test_adapters_over_random_weights_give_a_hint(sentence: str, spec: dict[str, Any], hinted: bool) -> None:
    hints = check(document(**spec)).spec.hints()
    assert len(hints) == hinted, sentence
    assert not hints or hints[0].startswith("spec.tuning.method: LoRA trains adapters over frozen weights")


@pytest.mark.parametrize(
    ("tuning", "hint"),
    [
        ({"method": "Full"}, None),
        ({"method": "LoRA", "rank": 4}, None),
        ({"method": "Full", "rank": 4}, "spec.tuning: rank has no effect with method: Full"),
        (
            {"method": "Full", "targetModules": ["q_proj"], "alpha": 1},
            "spec.tuning: alpha, targetModules have no effect with method: Full",
        ),
    ],
)
def test_settings_of_adapters_have_no_effect_with_full(tuning: dict[str, Any], hint: str | None) -> None:
    training = {"learningRate": 5e-5}
    spec = check(document(baseModel={"uri": "hf://org/name"}, tuning=tuning, training=training)).spec
    assert spec.hints() == ((hint,) if hint else ())


ADAPTERS = "is a rate for adapters"
RATES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("LoRA's own rate", {}, []),
    ("LoRA's rate for all weights", {"tuning": {"method": "Full"}}, [f"spec.training.learningRate: 0.0002 {ADAPTERS}"]),
    ("a rate for all weights", {"tuning": {"method": "Full"}, "training": {"learningRate": 2e-5}}, []),
    (
        "that of all weights for adapters",
        {"training": {"learningRate": 1e-5}},
        ["spec.training.learningRate: 1e-05 is a rate for training all weights; adapters want 1e-4 to 5e-4; raise it"],
    ),
    (
        "that of all weights for the adapters of a stage",
        {"stages": {"mixture": {"learningRate": 1e-5}}},
        ["spec.stages.mixture.learningRate: 1e-05 is a rate for training all weights"],
    ),
    (
        "a rate that no stage has",
        {
            "training": {"learningRate": 1e-5},
            "stages": {name: {"learningRate": 2e-4} for name in ("baseline", "highResource", "mixture")},
        },
        [],
    ),
    ("LoRA's for pretraining", {"pretraining": {"maxSteps": 9}}, [f"spec.pretraining.learningRate: 0.0002 {ADAPTERS}"]),
    ("one of its own", {"pretraining": {"maxSteps": 9, "learningRate": 2e-5}}, []),
    (
        "one of its own that is high",
        {"pretraining": {"maxSteps": 9, "learningRate": 1e-3}, "training": {"learningRate": 1e-4}},
        [f"spec.pretraining.learningRate: 0.001 {ADAPTERS}"],
    ),
]


@pytest.mark.parametrize(("sentence", "spec", "begins"), RATES, ids=[case[0] for case in RATES])
def test_a_learning_rate_for_another_method_gives_a_hint(
    sentence: str, spec: dict[str, Any], begins: list[str]
) -> None:
    hints = check(document(baseModel={"uri": "hf://org/name"}, **spec)).spec.hints()
    assert [hint[: len(start)] for hint, start in zip(hints, begins, strict=True)] == begins, sentence


def test_a_random_base_may_have_any_learning_rate() -> None:
    spec = {"tuning": {"method": "Full"}, "pretraining": {"maxSteps": 9}, "training": {"learningRate": 5e-3}}
    assert check(document(**spec)).spec.hints() == ()
