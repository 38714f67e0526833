from __future__ import annotations

from multitask_api.uris import BUILTIN_SIZES
from multitask_trainer.base_model import builtin


def test_a_resource_may_name_just_the_sizes_that_the_trainer_makes() -> None:
    assert tuple(builtin.SIZES) == BUILTIN_SIZES
