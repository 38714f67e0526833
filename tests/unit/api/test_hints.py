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
    base = {"uri": "hf://org/name"}
    assert check(document(baseModel=base, tuning=tuning)).spec.hints() == ((hint,) if hint else ())
