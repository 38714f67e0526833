"""What ``resolve`` finds out of a base before anything is fetched or trained."""

from __future__ import annotations

import pytest

from multitask_trainer.data.fingerprints import HashCache
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.stages.resolve import resolve
from support.graph_builders import model

WRONG = (
    "spec.tuning.targetModules: q_porj: the base model has no such layer that LoRA adapts; name some of q_proj,"
    " k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
)


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        ({"method": "LoRA", "targetModules": ["q_proj", "q_porj"]}, [WRONG]),
        ({"method": "LoRA", "targetModules": ["q_proj", "down_proj"]}, []),
        ({"method": "LoRA"}, []),
        ({"method": "Full", "targetModules": ["q_porj"]}, []),
    ],
)
def test_layers_that_the_base_does_not_have_are_named_at_once(tmp_path, tuning, expected):
    resolved = resolve(model(tuning=tuning).spec, DataLocations(tmp_path, {}), HashCache(None))
    assert [problem for problem in resolved.problems if "targetModules" in problem] == expected
