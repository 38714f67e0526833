"""What a cluster would refuse of a resource, as far as that can be known without one.

The operator's own objects are built, of every kind of stage and of the servers, and checked by Kubernetes' rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from multitask_api.cluster import RESOLVE
from multitask_api.errors import Problem, UserError
from multitask_api.resource import MultiTaskModel
from multitask_api.resource.sources import Storage
from multitask_api.serving_io.names import SERVER_CONTAINER
from multitask_api.types import JsonDict
from multitask_operator.objects import configmaps, jobs
from multitask_operator.objects.field_paths import in_users_words
from multitask_operator.objects.names import Owner, stage_job_name
from multitask_operator.objects.pod_layers import STAGE_KINDS, Layer, user_layers
from multitask_operator.objects.pod_values import is_label_value, is_object_name, value_errors
from multitask_operator.objects.pods import PodSettings
from multitask_operator.objects.serving import pods as serving_pods
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.volumes import uri_problems
from multitask_operator.settings import PodDefaults

_TEMPLATE = "spec.template"
_DEFAULTS = PodDefaults()
_STORAGE = Storage(uri="pvc://storage/model")
_IMAGE = "image"
_CHECK = "0" * 8


def cluster_problems(model: MultiTaskModel) -> list[Problem]:
    """Each problem once; empty for a resource of which nothing is known to be refused."""
    if model.spec.storage is None:  # it is for this machine, and says nothing of where a cluster would store results
        model = model.model_copy(update={"spec": model.spec.model_copy(update={"storage": _STORAGE})})
        lines: list[str] = []
    else:
        lines = [f"{problem.path}: {problem.message}" for problem in uri_problems(model.spec)]
    lines += _names(model)
    owner = Owner(model.metadata.namespace or "default", model.metadata.name, "uid")
    for kind in (RESOLVE, *STAGE_KINDS):
        lines += _of_pods(partial(_job, owner, model, kind), user_layers(model.spec, kind, _DEFAULTS))
    lines += _of_pods(partial(_server, owner, model), _server_layers(model))
    return [Problem(*line.split(": ", 1)) for line in dict.fromkeys(lines)]


def _job(owner: Owner, model: MultiTaskModel, kind: str) -> JsonDict:
    """The Job's pod template. Raises UserError, also for what its ConfigMap cannot hold."""
    stage_job = StageJobSpec(stage_job_name(owner.name, kind, [_CHECK]), kind, 1)
    if kind == RESOLVE:
        configmaps.resolve_configmap(owner, model, stage_job)
    template: JsonDict = jobs.stage_job(owner, model.spec, stage_job, PodSettings(_IMAGE))["spec"]["template"]
    return template


def _server(owner: Owner, model: MultiTaskModel) -> JsonDict:
    return serving_pods.server_template(owner, model.spec, _CHECK, 0, serving_pods.ServerSettings(_IMAGE))


def _server_layers(model: MultiTaskModel) -> tuple[Layer, ...]:
    serving = model.spec.serving
    container = {"name": SERVER_CONTAINER, "resources": serving.resources}
    given = {"spec": {"containers": [container]}} if serving.resources else {}
    resources = Layer(f"{serving_pods.PLACE}.resources", given, within=".spec.containers[0].resources")
    return (resources, *serving_pods.server_layers(model.spec, _DEFAULTS))


def _of_pods(build: Callable[[], JsonDict], layers: Sequence[Layer]) -> Iterator[str]:
    """The problems of one pod template with what the user gave for it."""
    try:
        template = build()
    except UserError as error:
        yield from str(error).splitlines()
        return
    if not any(layer.given for layer in layers):
        return
    from multitask_kubernetes.schema import pod_template_errors  # slow to import, and most resources need none of it

    errors = [*pod_template_errors(template, _TEMPLATE)] or [*value_errors(template, _TEMPLATE)]
    for line in errors:
        yield in_users_words(line, template, layers) or line


def _names(model: MultiTaskModel) -> Iterator[str]:
    """Names of other objects, which go into pods as they are."""
    spec = model.spec
    given = [("spec.serviceAccountName", spec.service_account_name)]
    given += [(f"spec.imagePullSecrets[{index}].name", each.name) for index, each in enumerate(spec.image_pull_secrets)]
    given += [
        (f"spec.credentials[{index}].secretRef.name", each.secret_ref.name)
        for index, each in enumerate(spec.credentials)
    ]
    for path, name in given:
        if name is not None and not is_object_name(name):
            yield f"{path}: {name!r} is not the name of an object: lower-case letters, digits, - and ."
    queue = spec.training.queue_name
    if queue is not None and not is_label_value(queue):
        yield f"spec.training.queueName: {queue!r} is not a label's value: letters, digits, -, _ and ."
