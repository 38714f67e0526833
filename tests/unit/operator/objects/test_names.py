"""Names, labels and owner references of children."""

from __future__ import annotations

import re

import pytest

from multitask_api.cluster import GC
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_api.stages.versions import VERSIONS
from multitask_operator.objects import names
from multitask_operator.objects.names import (
    STAGES,
    Owner,
    access_name,
    clean_up_name,
    resolve_name,
    run_name,
    stage_job_name,
)
from multitask_operator.objects.stage_jobs import StageJobSpec
from support.object_samples import OWNER, job_spec, ready, resource

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONG = "customer-support-desk-of-the-northern-region-in-production-01"
DIGEST = "0123456789ab"

# the sentence, the model's name, the unit's name (#: a hash)
UNITS = [
    ("a short name is kept", "desk", "desk-baseline-01234567"),
    ("so is one that just fits", "a" * 30, f"{'a' * 30}-baseline-01234567"),
    ("a long one ends with a hash", LONG, f"{LONG[:23]}-#-baseline-01234567"),
    ("no two dashes where it is cut", "a" * 22 + "-" + "b" * 20, f"{'a' * 22}-#-baseline-01234567"),
    ("one that begins with a digit gets a letter", "7-desks", "m-7-desks-#-baseline-01234567"),
]


@pytest.mark.parametrize(("sentence", "model", "expected"), UNITS, ids=[row[0] for row in UNITS])
def test_names_of_jobs(sentence, model, expected):
    assert re.sub("-[0-9a-f]{6}-", "-#-", stage_job_name(model, "baseline", [DIGEST])) == expected


@pytest.mark.parametrize("model", ["a", "7", "desk", LONG, "a" * 63, "1" * 63, "a-" * 31 + "a"])
def test_every_name_is_a_dns_label_with_room_for_a_pod_index(model):
    owner = Owner("ns", model, "uid")
    generated = [stage_job_name(model, kind, [DIGEST]) for kind in VERSIONS]
    generated += [resolve_name(owner, 2**31, "again"), run_name(model, 2**31), clean_up_name(owner)]
    generated += [access_name(model, kind) for kind in (STAGES, GC, VERIFY_REVISION)]
    for name in generated:
        assert LABEL.fullmatch(name), name
        assert len(name) + len("-63") <= 63, name


def test_models_whose_long_names_begin_alike_do_not_share_children():
    one, other = f"{LONG}-a", f"{LONG}-b"
    for name in (lambda model: stage_job_name(model, "base", [DIGEST]), lambda model: run_name(model, 1)):
        assert name(one) != name(other)
    for kind in (STAGES, GC, VERIFY_REVISION):
        assert access_name(one, kind) != access_name(other, kind)


def test_the_name_of_a_job_of_several_stages_does_not_depend_on_their_sequence():
    orders = ready(resource(), "prepare")
    forwards, backwards = (StageJobSpec.of_stages(OWNER, 1, each) for each in (orders, orders[::-1]))
    assert len(orders) == 4
    assert forwards == backwards
    assert forwards.name == stage_job_name("desk", "prepare", [order.digest for order in orders])
    assert forwards.name != StageJobSpec.of_stages(OWNER, 1, orders[:3]).name


def test_resolve_runs_again_for_another_generation_refresh_or_resource():
    other = Owner(OWNER.namespace, OWNER.name, "another-uid")
    generated = [
        resolve_name(*given) for given in ((OWNER, 1, None), (OWNER, 2, None), (OWNER, 1, "x"), (other, 1, None))
    ]
    assert len(set(generated)) == 4
    assert resolve_name(OWNER, 1, None) == resolve_name(OWNER, 1, "")


def test_annotations_name_the_stages_and_their_digests_in_one_order():
    item = job_spec(resource(), "prepare")
    stages, digests = (value.split(",") for value in item.annotations.values())
    assert list(item.annotations) == ["multitask.dev/stage", "multitask.dev/digest"]
    assert stages == ["prepare/escalate", "prepare/intent", "prepare/reply", "prepare/urgency"]
    assert dict(zip(stages, digests, strict=True)) == {
        order.stage: order.digest for order in ready(resource(), "prepare")
    }
    assert job_spec(resource(), "resolve").annotations == {"multitask.dev/generation": "3"}


def test_a_child_is_found_by_its_labels_and_goes_with_its_owner():
    item = names.object_metadata(OWNER, "v1", "ConfigMap", "desk-run-1", of="run", annotations={"a": "b"})
    assert item == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "desk-run-1",
            "namespace": "team-a",
            "labels": {
                "app.kubernetes.io/managed-by": "multitask-operator",
                "multitask.dev/model": "desk",
                "multitask.dev/kind": "run",
            },
            "annotations": {"a": "b"},
            "ownerReferences": [
                {
                    "apiVersion": "multitask.dev/v1alpha1",
                    "kind": "MultiTaskModel",
                    "name": "desk",
                    "uid": OWNER.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
    }
    assert Owner.of({"metadata": {"namespace": "team-a", "name": "desk", "uid": OWNER.uid}}) == OWNER


def test_what_is_made_is_what_is_selected():
    wanted = dict(pair.split("=") for pair in names.selector(OWNER.name).split(","))
    made = names.object_metadata(OWNER, "v1", "ConfigMap", "unit", of="base")["metadata"]["labels"]
    assert wanted.items() <= made.items()
    assert len(wanted) == 2
