"""The strategic merge of pod templates, against a table and against kubectl itself."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess

import pytest

from devcluster import binaries
from multitask_operator.objects.errors import PodTemplateError
from multitask_operator.objects.merge import merge

PLACE = "spec.training.podTemplate"
POD = {
    "metadata": {"labels": {"app": "x", "team": "a"}, "annotations": {"note": "old"}},
    "spec": {
        "restartPolicy": "Never",
        "securityContext": {"runAsUser": 10001, "fsGroup": 10001},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "registry"}],
        "initContainers": [{"name": "first", "image": "i"}, {"name": "second", "image": "j"}],
        "containers": [
            {
                "name": "trainer",
                "image": "t:1",
                "command": ["python", "-m", "program"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "envFrom": [{"secretRef": {"name": "s"}}],
                "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81, "name": "more"}],
                "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
                "volumeMounts": [{"name": "work", "mountPath": "/work"}, {"name": "shm", "mountPath": "/dev/shm"}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
            }
        ],
        "volumes": [{"name": "work", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
    },
}


def trainer(**fields):
    return {"spec": {"containers": [{"name": "trainer", **fields}]}}


def spec(**fields):
    return {"spec": fields}


# the sentence, the patch
CASES = [
    ("nothing changes nothing", {}),
    ("an empty spec changes nothing", spec()),
    ("maps merge by key", {"metadata": {"labels": {"team": "b", "cost": "c"}}}),
    ("a field is set", spec(priorityClassName="high")),
    ("a field that was there is replaced", spec(restartPolicy="OnFailure")),
    ("null deletes", spec(restartPolicy=None)),
    ("null of what is not there does nothing", spec(nodeName=None)),
    ("null deletes a map", {"metadata": {"annotations": None}}),
    ("null deletes a list to merge", spec(initContainers=None)),
    ("null in a map deletes its key", {"metadata": {"labels": {"team": None}}}),
    ("a container is known by its name", trainer(image="t:2")),
    ("another container goes before it", spec(containers=[{"name": "log", "image": "l"}])),
    (
        "two containers stand in the order given",
        spec(containers=[{"name": "trainer", "tty": True}, {"name": "log", "image": "l"}]),
    ),
    ("the order given wins", spec(initContainers=[{"name": "second", "tty": True}, {"name": "first", "tty": True}])),
    ("one that stood before still does", spec(initContainers=[{"name": "second", "tty": True}])),
    (
        "new ones go before the rest",
        spec(
            initContainers=[
                {"name": "third", "image": "k"},
                {"name": "second", "tty": True},
                {"name": "4", "image": "l"},
            ]
        ),
    ),
    ("an item is deleted by its key", spec(initContainers=[{"name": "first", "$patch": "delete"}])),
    ("one that is not there is deleted in peace", spec(initContainers=[{"name": "third", "$patch": "delete"}])),
    ("a list is replaced", spec(initContainers=[{"$patch": "replace"}, {"name": "only", "image": "o"}])),
    ("a list is emptied", spec(initContainers=[{"$patch": "replace"}])),
    ("an empty list to merge changes nothing", spec(containers=[])),
    ("a list that was not there is added", spec(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a"]}])),
    ("variables are known by name", trainer(env=[{"name": "A", "value": "9"}, {"name": "C", "value": "3"}])),
    (
        "a variable's source changes",
        trainer(env=[{"name": "B", "value": None, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
    ),
    ("a variable is deleted", trainer(env=[{"name": "A", "$patch": "delete"}])),
    (
        "a variable is deleted and given anew",
        trainer(env=[{"name": "A", "$patch": "delete"}, {"name": "A", "value": "7"}]),
    ),
    ("sources of variables are one list", trainer(envFrom=[{"configMapRef": {"name": "c"}}])),
    ("a command is one list", trainer(command=["sh"])),
    ("ports are known by number", trainer(ports=[{"containerPort": 81, "name": "metrics"}, {"containerPort": 82}])),
    ("mounts are known by path", trainer(volumeMounts=[{"name": "fast", "mountPath": "/work"}])),
    (
        "a mount is added",
        trainer(volumeMounts=[{"name": "work", "mountPath": "/elsewhere", "subPath": "x"}]),
    ),
    ("a mount is deleted", trainer(volumeMounts=[{"mountPath": "/work", "$patch": "delete"}])),
    ("a device is added", trainer(volumeDevices=[{"name": "d", "devicePath": "/dev/x"}])),
    ("resources merge", trainer(resources={"limits": {"memory": "4Gi"}, "requests": {"cpu": "1"}})),
    ("resources are replaced", trainer(resources={"$patch": "replace", "limits": {"memory": "4Gi"}})),
    (
        "capabilities are one list",
        trainer(securityContext={"capabilities": {"drop": ["NET_RAW"], "add": ["SYS_NICE"]}}),
    ),
    ("tolerations are one list", spec(tolerations=[{"key": "spot", "operator": "Exists"}])),
    ("pull secrets merge", spec(imagePullSecrets=[{"name": "other"}])),
    ("a volume is added", spec(volumes=[{"name": "host", "hostPath": {"path": "/opt"}}])),
    ("a volume merges with its source", spec(volumes=[{"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}}])),
    (
        "a volume's source is replaced",
        spec(volumes=[{"name": "work", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/opt"}}]),
    ),
    (
        "a volume is deleted, another added",
        spec(volumes=[{"name": "shm", "$patch": "delete"}, {"name": "new", "emptyDir": {}}]),
    ),
    ("a map is replaced", spec(securityContext={"$patch": "replace", "runAsUser": 0})),
    ("a map is emptied", spec(securityContext={"$patch": "delete"})),
    ("a map that was not there is not made empty", spec(affinity={"$patch": "delete"})),
    ("retained keys of a map", spec(securityContext={"$retainKeys": ["fsGroup"], "fsGroup": 5})),
    ("lists inside affinity are one list each", spec(affinity={"nodeAffinity": {"preferred": [{"weight": 1}]}})),
    (
        "constraints are known by topology key",
        spec(topologySpreadConstraints=[{"topologyKey": "zone", "maxSkew": 1}]),
    ),
    (
        "the same item twice is merged twice",
        trainer(env=[{"name": "C", "value": "1"}, {"name": "C", "value": "2"}]),
    ),
    ("a bare template replaces everything", spec(**{"$patch": "replace", "containers": [{"name": "trainer"}]})),
]


@pytest.fixture(scope="session")
def kubectl() -> str:
    built = binaries.path("kubectl")
    path = str(built) if built.is_file() else shutil.which("kubectl")
    if path is None:
        pytest.skip("needs kubectl: run `make kubernetes`")
    return path


@pytest.mark.parametrize(("sentence", "patch"), CASES, ids=[row[0] for row in CASES])
def test_it_does_what_kubectl_does(sentence, patch, kubectl, tmp_path):
    file = tmp_path / "pod.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", **POD}))
    done = subprocess.run(
        [kubectl, "patch", "--local", "--type", "strategic", "-f", file, "-p", json.dumps(patch), "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout)
    del expected["apiVersion"], expected["kind"]
    assert merge(POD, patch, PLACE) == expected


@pytest.mark.parametrize(("sentence", "patch"), CASES, ids=[row[0] for row in CASES])
def test_a_second_time_changes_nothing(sentence, patch):
    once = merge(POD, patch, PLACE)
    assert merge(once, patch, PLACE) == once


def test_neither_the_template_nor_the_patch_is_changed():
    before, patch = copy.deepcopy(POD), trainer(env=[{"name": "A", "value": "9"}])
    given = copy.deepcopy(patch)
    merged = merge(POD, patch, PLACE)
    merged["spec"]["containers"][0]["env"][0]["value"] = "changed"
    assert (before, given) == (POD, patch)


def test_a_directive_also_applies_to_an_absent_field():
    """kubectl drops the map; what is given is meant."""
    patch = spec(affinity={"$patch": "replace", "nodeAffinity": {"preferred": []}})
    assert merge(POD, patch, PLACE)["spec"]["affinity"] == {"nodeAffinity": {"preferred": []}}


ERRORS = [
    ("a spec that is a list", {"spec": []}, f"{PLACE}.spec: expected a mapping"),
    ("a template that is a list", [], f"{PLACE}: expected a mapping"),
    ("containers that are a mapping", spec(containers={}), f"{PLACE}.spec.containers: expected a list"),
    ("a container that is text", spec(containers=["x"]), f"{PLACE}.spec.containers[0]: expected a mapping"),
    ("a container without a name", spec(containers=[{"image": "x"}]), f"{PLACE}.spec.containers[0]: needs a name"),
    ("a name that is a mapping", spec(volumes=[{"name": {}}]), f"{PLACE}.spec.volumes[0]: needs a name"),
    (
        "a mount without a path",
        trainer(volumeMounts=[{"name": "x"}]),
        f"{PLACE}.spec.containers[trainer].volumeMounts[0]: needs a mountPath",
    ),
    (
        "an unknown directive in an item",
        spec(volumes=[{"name": "x", "$patch": "merge"}]),
        f"{PLACE}.spec.volumes[0].$patch: 'merge' is not known; use replace or delete",
    ),
    (
        "an unknown directive in a map",
        spec(affinity={"$patch": "drop"}),
        f"{PLACE}.spec.affinity.$patch: 'drop' is not known; use replace or delete",
    ),
    (
        "another directive",
        spec(**{"$setElementOrder/containers": []}),
        f"{PLACE}.spec.$setElementOrder/containers: not known; use $patch: replace",
    ),
    (
        "retained keys that are text",
        spec(volumes=[{"name": "work", "$retainKeys": "name"}]),
        f"{PLACE}.spec.volumes[work].$retainKeys: expected a list",
    ),
    (
        "retained keys that leave one out",
        spec(volumes=[{"name": "work", "$retainKeys": ["name"], "hostPath": {}}]),
        f"{PLACE}.spec.volumes[work].$retainKeys: must name hostPath too",
    ),
]


@pytest.mark.parametrize(("sentence", "patch", "message"), ERRORS, ids=[row[0] for row in ERRORS])
def test_a_malformed_patch_is_rejected(sentence, patch, message):
    with pytest.raises(PodTemplateError) as raised:
        merge(POD, patch, PLACE)
    assert str(raised.value).startswith(message)
