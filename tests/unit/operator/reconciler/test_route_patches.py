"""The status of a TaskRoute is written as a merge patch, which must leave nothing of the rollout before."""

from __future__ import annotations

import pytest

from multitask_api.routes import RolloutState, TaskRollout
from multitask_operator.reconciler.serving.routes import merge_patch
from support.fake_api_server import merged

OVER = RolloutState(
    revision="one",
    phase="Successful",
    step=2,
    weight=100,
    step_started="2026-09-21T14:13:20.000Z",
    measured="2026-09-21T14:13:20.000Z",
    finished="2026-09-21T14:13:20.000Z",
    tasks=(TaskRollout(name="urgency", phase="Successful", passed_on="traffic", step_passed=True),),
)
NEXT = RolloutState(revision="two", stable="one", phase="Verifying")


@pytest.mark.parametrize("after", [NEXT.to_json(), OVER.to_json(), None, NEXT.to_json() | {"tasks": []}])
@pytest.mark.parametrize("before", [OVER.to_json(), NEXT.to_json(), None])
def test_after_the_patch_the_rollout_is_as_decided(before, after):
    status = {"gateways": []} | ({"rollout": before} if before is not None else {})
    written = merged(status, {"rollout": merge_patch(before, after)})
    assert written == {"gateways": []} | ({"rollout": after} if after is not None else {})
