"""What passes through a ConfigMap comes out as it went in, fits, and is told from what a hand has put there."""

from __future__ import annotations

import base64
import gzip
import random

import pytest

from multitask_api.cluster import command
from multitask_api.stage_io.manifest import FileEntry, Manifest
from multitask_api.stage_io.packing import (
    MANIFEST_LIMIT,
    pack_manifest,
    pack_manifests,
    unpack_manifest,
    unpack_manifests,
)


def manifest(stage: str = "baseline/urgency/seed-17", **result: object) -> Manifest:
    return Manifest(
        stage=stage,
        kind="baseline",
        digest="0123456789ab",
        version=2,
        read_outputs={"base#model": "aa"},
        outputs={"model": "bb"},
        files={"weights/model.safetensors": FileEntry(sha256="cc", bytes=3)},
        result=result,
        seconds=1.5,
    )


def curve(points: int, tasks: int = 100) -> list[dict[str, object]]:
    generator = random.Random(3)
    return [
        {"step": step, "tasks": {f"task-{task}": {"loss": generator.random()} for task in range(tasks)}}
        for step in range(points)
    ]


def test_a_manifest_comes_out_as_it_went_in_but_for_its_files():
    assert unpack_manifest(pack_manifest(manifest(steps=3))) == manifest(steps=3).model_copy(update={"files": {}})


def test_equal_manifests_are_equal_bytes():
    assert pack_manifest(manifest(a=1, b=2)) == pack_manifest(manifest(b=2, a=1))


def test_a_curve_too_long_for_a_config_map_keeps_fewer_points_among_them_those_that_the_result_names():
    long = manifest(curve=curve(501), chosenStep=301, saturationStep=333)
    packed = pack_manifest(long)
    assert len(base64.b64decode(packed)) <= MANIFEST_LIMIT
    steps = [point["step"] for point in unpack_manifest(packed).result["curve"]]
    assert {0, 301, 333, 500} <= set(steps)
    assert 50 < len(steps) < 400
    assert steps == sorted(steps)


def test_a_manifest_that_is_too_large_in_another_way_is_refused_by_name():
    generator = random.Random(1)
    with pytest.raises(ValueError, match="the manifest of baseline/urgency/seed-17 has"):
        pack_manifest(manifest(text=[generator.random() for _ in range(60_000)]))


def test_of_a_list_as_many_are_kept_as_fit_from_the_first_on():
    every = [manifest(f"prepare/{number}", noise=random.Random(number).random()) for number in range(900)]
    packed, kept = pack_manifests(every, limit=12_000)
    assert len(base64.b64decode(packed)) <= 12_000
    found = unpack_manifests(packed)
    assert [item.stage for item in found] == [item.stage for item in every[:kept]]
    assert 300 < kept < 900


def test_an_empty_list_is_a_list():
    assert unpack_manifests(pack_manifests([])[0]) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%%%",
        "aGVsbG8=",
        base64.b64encode(gzip.compress(b'{"stage": "x"}')[:-9]).decode(),
        base64.b64encode(gzip.compress(b"[1, 2]")).decode(),
        base64.b64encode(gzip.compress(b'{"stage": "x"}')).decode(),
        base64.b64encode(gzip.compress(b"not JSON")).decode(),
        base64.b64encode(gzip.compress(b" " * (65 << 20))).decode(),
    ],
    ids=["nothing", "no base64", "no gzip", "cut off", "a list", "not whole", "no JSON", "a bomb"],
)
def test_what_a_hand_has_put_there_is_a_value_error(text):
    for unpack in (unpack_manifest, unpack_manifests):
        with pytest.raises(ValueError):
            unpack(text)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({}, "python"),
        ({"processes": 2}, "python -m multitask_trainer.launch --processes=2"),
        ({"nodes": 3}, "python -m multitask_trainer.launch --processes=1 --nodes=3 --master=desk-0.desk:29400"),
    ],
)
def test_the_command_of_a_stage_container(shape, said):
    assert " ".join(command("desk", **shape)).removesuffix(" -m multitask_trainer.pod") == said


def test_the_rows_of_each_label_stay_in_storage():
    assert unpack_manifest(pack_manifest(manifest(rows=3, labelCounts={"train": {"a": 3}}))).result == {"rows": 3}
