"""A field that the API server rejects is named as its writer wrote it."""

from __future__ import annotations

import pytest

from multitask_operator.objects.field_paths import in_users_words
from multitask_operator.objects.jobs import stage_job
from multitask_operator.objects.pod_layers import user_layers
from multitask_operator.objects.pods import PodSettings
from multitask_operator.settings import PodDefaults
from support.object_samples import OWNER, job_spec, resource

STRICT = 'Job in version "v1" cannot be handled as a Job: strict decoding error: '
HANDLED = 'Job in version "v1" cannot be handled as a Job: json: cannot unmarshal '
T = "spec.training.podTemplate"


def on_trainer(**fields):
    return {"spec": {"containers": [{"name": "trainer", **fields}]}}


def words(message, training, defaults=None, kind="mixture"):
    desk = resource(training={"gpusPerNode": 1, **training})
    defaults = defaults or PodDefaults()
    job = stage_job(OWNER, desk.spec, job_spec(desk, kind), PodSettings("t:1", defaults=defaults))
    return in_users_words(message, job["spec"]["template"], user_layers(desk.spec, kind, defaults))


PROXY = {"name": "proxy", "image": "p", "resurces": {}}
# the sentence, training, the server's message, ours (None: it names nothing of the model's)
CASES = [
    (
        "fields of the pod",
        {"podTemplate": {"spec": {"tolerationz": [], "nodeselector": {}}}},
        f'{STRICT}unknown field "spec.template.spec.tolerationz", unknown field "spec.template.spec.nodeselector"',
        f"{T}.spec.tolerationz: unknown field, {T}.spec.nodeselector: unknown field",
    ),
    (
        "a field of the trainer",
        {"podTemplate": on_trainer(resurces={})},
        f'{STRICT}unknown field "spec.template.spec.containers[0].resurces"',
        f"{T}.spec.containers[0].resurces: unknown field",
    ),
    (
        "a container stands elsewhere in the merged list",
        {"podTemplate": {"spec": {"containers": [{"name": "trainer", "tty": True}, PROXY]}}},
        f'{STRICT}unknown field "spec.template.spec.containers[1].resurces"',
        f"{T}.spec.containers[1].resurces: unknown field",
    ),
    (
        "a variable stands elsewhere in the merged list",
        {"podTemplate": on_trainer(env=[{"name": "TMPDIR", "valu": "/x"}])},
        f'{STRICT}unknown field "spec.template.spec.containers[0].env[4].valu"',
        f"{T}.spec.containers[0].env[0].valu: unknown field",
    ),
    (
        "a field of the metadata",
        {"podTemplate": {"metadata": {"lables": {}}}},
        f'{STRICT}unknown field "spec.template.metadata.lables"',
        f"{T}.metadata.lables: unknown field",
    ),
    (
        "a field for pods with a GPU",
        {"podTemplates": {"gpu": {"spec": {"nodeselector": {}}}}},
        f'{STRICT}unknown field "spec.template.spec.nodeselector"',
        "spec.training.podTemplates.gpu.spec.nodeselector: unknown field",
    ),
    (
        "a field of another type",
        {"podTemplate": {"spec": {"nodeSelector": ["x"]}}},
        f"{HANDLED}array into Go struct field PodSpec.spec.template.spec.nodeSelector of type map[string]string",
        f"cannot unmarshal array into Go struct field {T}.spec.nodeSelector of type map[string]string",
    ),
    (
        "a field of another type in a list, of which the decoder tells no position",
        {"podTemplate": on_trainer(tty="yes")},
        f"{HANDLED}string into Go struct field Container.spec.template.spec.containers.tty of type bool",
        f"cannot unmarshal string into Go struct field {T}.spec.containers[0].tty of type bool",
    ),
    (
        "a value that is not allowed",
        {"podTemplate": {"spec": {"tolerations": [{"key": "a", "operator": "Exist"}]}}},
        'Job.batch "j" is invalid: spec.template.spec.tolerations[0].operator: Unsupported value: "Exist"',
        f'Job.batch "j" is invalid: {T}.spec.tolerations[0].operator: Unsupported value: "Exist"',
    ),
    (
        "a label, of which the server leaves out that it is metadata",
        {"podTemplate": {"metadata": {"labels": {"a": "b c"}}}},
        'Job.batch "j" is invalid: spec.template.labels: Invalid value: "b c"',
        f'Job.batch "j" is invalid: {T}.metadata.labels: Invalid value: "b c"',
    ),
    (
        "what a sidecar lacks",
        {"podTemplate": {"spec": {"containers": [{"name": "proxy"}]}}},
        'Job.batch "j" is invalid: spec.template.spec.containers[0].image: Required value',
        f'Job.batch "j" is invalid: {T}.spec.containers[0].image: Required value',
    ),
    (
        "a resource in training.resources",
        {"resources": {"limits": {"memroy": "4Gi"}}},
        'Job.batch "j" is invalid: spec.template.spec.containers[0].resources.limits[memroy]: Invalid value: "memroy"',
        'Job.batch "j" is invalid: spec.training.resources.limits.memroy: Invalid value: "memroy"',
    ),
    (
        "what the operator sets is not blamed on the model",
        {"podTemplate": on_trainer(tty=True)},
        'Job.batch "j" is invalid: spec.template.spec.containers[0].image: Invalid value: " "',
        None,
    ),
    ("a quota names no field", {}, 'jobs.batch "j" is forbidden: exceeded quota: q', None),
]


@pytest.mark.parametrize(("sentence", "training", "message", "expected"), CASES, ids=[row[0] for row in CASES])
def test_a_field_has_the_name_that_it_has_in_the_resource(sentence, training, message, expected):
    assert words(message, training) == expected


def test_a_field_of_the_installation_is_named_as_such():
    defaults = PodDefaults(pod_template={"spec": {"nodeselector": {}}})
    message = f'{STRICT}unknown field "spec.template.spec.nodeselector"'
    assert words(message, {}, defaults) == "the installation's stagePods.podTemplate.spec.nodeselector: unknown field"
