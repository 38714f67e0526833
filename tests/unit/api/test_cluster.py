"""Manifests in a ConfigMap: packed and unpacked without loss, small enough, and safe against edits by others."""

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


def test_an_unpacked_manifest_equals_the_packed_one_except_for_its_files():
    assert unpack_manifest(pack_manifest(manifest(steps=3))) == manifest(steps=3).model_copy(update={"files": {}})


def test_equal_manifests_are_equal_bytes():
    assert pack_manifest(manifest(a=1, b=2)) == pack_manifest(manifest(b=2, a=1))


def test_a_curve_too_long_for_a_configmap_keeps_fewer_points_but_the_chosen_and_saturation_steps():
    long = manifest(curve=curve(501), chosenStep=301, saturationStep=333)
    packed = pack_manifest(long)
    assert len(base64.b64decode(packed)) <= MANIFEST_LIMIT
    steps = [point["step"] for point in unpack_manifest(packed).result["curve"]]
    assert {0, 301, 333, 500} <= set(steps)
    assert 50 < len(steps) < 400
    assert steps == sorted(steps)


def test_a_manifest_that_is_too_large_without_a_curve_is_an_error_that_names_it():
    generator = random.Random(1)
    with pytest.raises(ValueError, match="the manifest of baseline/urgency/seed-17 has"):
        pack_manifest(manifest(text=[generator.random() for _ in range(60_000)]))


def test_as_many_manifests_are_kept_as_fit_from_the_first_on():
    every = [manifest(f"prepare/{number}", noise=random.Random(number).random()) for number in range(900)]
    packed, kept = pack_manifests(every, limit=12_000)
    assert len(base64.b64decode(packed)) <= 12_000
    unpacked = unpack_manifests(packed)
    assert [item.stage for item in unpacked] == [item.stage for item in every[:kept]]
    assert 300 < kept < 900


def test_an_empty_list_can_be_packed():
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
def test_anything_else_in_the_configmap_is_a_value_error(text):
    for unpack in (unpack_manifest, unpack_manifests):
        with pytest.raises(ValueError):
            unpack(text)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({}, "python"),
        ({"processes": 2}, "python -m multitask_trainer.launch --processes=2"),
        ({"nodes": 3}, "python -m multitask_trainer.launch --processes=1 --nodes=3 --master=desk-0.desk:29400"),
    ],
)
def test_the_command_of_a_stage_container(shape, expected):
    assert " ".join(command("desk", **shape)).removesuffix(" -m multitask_trainer.pod") == expected


def test_the_row_counts_of_labels_are_not_packed():
    assert unpack_manifest(pack_manifest(manifest(rows=3, labelCounts={"train": {"a": 3}}))).result == {"rows": 3}
