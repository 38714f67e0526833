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
