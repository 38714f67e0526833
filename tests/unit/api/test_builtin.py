from __future__ import annotations

from multitask_api.uris import BUILTIN_SIZES
from multitask_trainer.base_model import builtin


def test_the_sizes_of_a_resource_are_those_that_the_trainer_can_create() -> None:
    assert tuple(builtin.SIZES) == BUILTIN_SIZES
