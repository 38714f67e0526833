from __future__ import annotations

from typing import Any

import pytest

from multitask_api.resource.hints import hints
from multitask_api.resource.parsing import check
from support.simulated_stages import document

CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("adapters over random weights", {}, True),
    ("all weights", {"tuning": {"method": "Full"}}, False),
    ("weights that are pre-trained first", {"pretraining": {"maxSteps": 9}}, False),
    ("a base of the hub", {"baseModel": {"uri": "hf://org/name"}}, False),
]


@pytest.mark.parametrize(("sentence", "spec", "hinted"), CASES, ids=[case[0] for case in CASES])
def test_adapters_over_random_weights_are_seldom_meant(sentence: str, spec: dict[str, Any], hinted: bool) -> None:
    found = hints(check(document(**spec)).spec)
    assert len(found) == hinted, sentence
    assert not found or found[0].startswith("spec.tuning.method: LoRA trains adapters over weights that stay")
