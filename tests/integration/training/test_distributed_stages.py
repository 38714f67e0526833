"""A stage whose work several processes share: one result, one status, whoever fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from multitask_api.cluster import CONFIGMAP_VARIABLE, FAILURE_KEY, ORDERS_KEY
from multitask_api.stage_io.manifest import Manifest, StageOrder
from multitask_api.stage_io.packing import manifest_key, unpack_manifest
from multitask_api.stage_io.parameters import StageParameters
from multitask_api.stage_io.results import TrainResult
from multitask_api.stages.versions import VERSIONS
from support.fake_api_server import NAME, ApiServer, running
from support.training_fixtures import TrainingSuite, base_parameters, optimisation, pretraining, train_parameters

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> TrainingSuite:
    training_suite = TrainingSuite(tmp_path_factory.mktemp("ranks"))
    training_suite.run(training_suite.order("base", base_parameters()))
    return training_suite


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with running(ApiServer()) as running_server:
        yield running_server


def order(suite: TrainingSuite, stage: str, parameters: StageParameters, **changes: object) -> StageOrder:
    kind = stage.partition("/")[0]
    path = suite.order(stage, parameters, version=VERSIONS[kind], **changes)
    return StageOrder.model_validate_json(path.read_bytes())


def pod(
    suite: TrainingSuite, stage_order: StageOrder, server: ApiServer, launch: Sequence[str], **variables: str
) -> subprocess.Popen:
    """The pod's command, with ``launch`` before it."""
    unit_folder = suite.root / "units" / stage_order.stage
    unit_folder.mkdir(parents=True, exist_ok=True)
    content = {"orders": [json.loads(stage_order.model_dump_json(by_alias=True))]}
    (unit_folder / ORDERS_KEY).write_text(json.dumps(content))
    program = ["multitask_trainer.pod", "--orders", str(unit_folder), "--server", server.url]
    argv = [sys.executable, *(["-m", "multitask_trainer.launch", *launch] if launch else []), "-m", *program]
    environment = os.environ | {CONFIGMAP_VARIABLE: NAME} | variables
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(*pods: subprocess.Popen) -> list[tuple[int, str]]:
    try:
        outputs = [process.communicate(timeout=400) for process in pods]
    finally:
        for process in pods:
            process.kill()
    return [(process.returncode, errors) for process, (_, errors) in zip(pods, outputs, strict=True)]


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.fixture(scope="module")
def one(suite: TrainingSuite) -> Manifest:
    """The baseline of one process."""
    suite.run(suite.order("baseline/one", train_parameters("baseline", max_steps=40), version=VERSIONS["baseline"]))
    return suite.manifest("baseline/one")


@pytest.mark.parametrize("sharding", ["Never", "Always"])
def test_two_processes_leave_what_one_leaves(suite, server, one, sharding):
    stage = f"baseline/{sharding}"
    parameters = train_parameters("baseline", max_steps=40)
    stage_order = order(suite, stage, parameters, digest=sharding, sharding=sharding)
    ((status, errors),) = ended(pod(suite, stage_order, server, ["--processes=2"]))
    assert status == 0, errors
    two = suite.manifest(stage)
    assert unpack_manifest(server.binary[manifest_key(sharding)]).outputs == two.outputs
    first, second = (TrainResult.model_validate(manifest.result) for manifest in (one, two))
    assert set(one.files) == set(two.files)
    assert set(one.result) == set(two.result)
    assert set(one.outputs) == set(two.outputs)
    assert [(point.step, point.phase) for point in first.curve] == [(point.step, point.phase) for point in second.curve]
    assert (first.rows_given, first.tokens_given, first.tokens) == (
        second.rows_given,
        second.tokens_given,
        second.tokens,
    )
    losses = [[point.train_loss for point in result.curve] for result in (first, second)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    weights = [load_file(suite.artifact(name) / "served/model/model.safetensors") for name in ("baseline/one", stage)]
    # Adam turns a gradient's rounding into a step of its own size where the gradient is nearly nothing.
    far = [(weights[0][name] - value).abs().gt(1e-4).float().mean() for name, value in weights[1].items()]
    assert max(far) < 0.01
    assert not suite.work(stage).exists()


def test_two_pods_on_two_nodes_make_one_base(suite, server):
    """Pre-training too: its tokens are written once, and both read them. Each holds half of the weights."""
    parameters = base_parameters(pretraining=pretraining(maxSteps=4))
    stage_order = order(suite, "base/shared", parameters, digest="shared", sharding="Always")
    launch = ["--processes=1", "--nodes=2", f"--master=127.0.0.1:{free_port()}"]
    both = [pod(suite, stage_order, server, launch, JOB_COMPLETION_INDEX=str(index)) for index in (0, 1)]
    statuses = ended(*both)
    assert [status for status, _ in statuses] == [0, 0], statuses
    result = suite.manifest("base/shared").result
    assert result["steps"] == 4
    weights = load_file(suite.artifact("base/shared") / "model/model.safetensors")
    assert sum(value.numel() for value in weights.values()) == result["parameters"]
    assert [key for patch in server.patches for key in patch.get("binaryData", {})] == [manifest_key("shared")]


def test_a_result_that_is_there_is_reported_by_the_first_process_alone(suite, server):
    stage_order = order(suite, "base", base_parameters(), digest="0" * 12)
    ((status, errors),) = ended(pod(suite, stage_order, server, ["--processes=2"]))
    assert status == 0, errors
    assert list(server.binary) == [manifest_key("0" * 12)]


def test_wrong_input_ends_every_process_with_the_final_status_and_is_told_once(suite, server):
    parameters = train_parameters("baseline", optimisation=optimisation(batch_rows=1))
    stage_order = order(suite, "baseline/few", parameters, digest="few")
    ((status, errors),) = ended(pod(suite, stage_order, server, ["--processes=2"]))
    assert status == 2, errors
    failure = json.loads(server.data[FAILURE_KEY])
    assert failure["kind"] == "UserError"
    assert failure["message"].startswith("training.batchRows is 1 and there are 2 processes")


def test_a_pod_told_to_stop_leaves_a_checkpoint_and_the_next_goes_on(suite, server):
    stage_order = order(
        suite, "baseline/interrupted", train_parameters("baseline", max_steps=200), digest="interrupted"
    )
    process = pod(suite, stage_order, server, ["--processes=2"])
    checkpoint = suite.work("baseline/interrupted") / "checkpoint" / "checkpoint.pt"
    end = time.monotonic() + 300
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    ((status, errors),) = ended(process)
    assert status == 75, errors
    assert checkpoint.exists()
    again = pod(suite, stage_order, server, ["--processes=2"])
    output, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert "resuming after step" in output


def test_a_killed_process_ends_the_others_and_may_be_tried_again(suite, server):
    stage_order = order(suite, "baseline/killed", train_parameters("baseline", max_steps=2000), digest="killed")
    process = pod(suite, stage_order, server, ["--processes=2"])
    checkpoint = suite.work("baseline/killed") / "checkpoint" / "checkpoint.pt"
    end = time.monotonic() + 300
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(_rank(process.pid, 1), signal.SIGKILL)
    ((status, errors),) = ended(process)
    assert status == 75, errors


def _rank(launcher: int, rank: int) -> int:
    """The process of a rank below its launcher."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"\0RANK={rank}\0" in f"\0{Path(f'/proc/{child}/environ').read_text()}":
            return int(child)
    raise AssertionError(f"no process of rank {rank}")
