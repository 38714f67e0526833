"""The resource: what users write (``spec``) and what the operator reports (``status``)."""

from multitask_api.resource.model import MultiTaskModel
from multitask_api.resource.parsing import parse
from multitask_api.resource.spec import MultiTaskModelSpec
from multitask_api.resource.tasks import TaskSpec

__all__ = ["MultiTaskModel", "MultiTaskModelSpec", "TaskSpec", "parse"]
