"""The resource: what a user writes (``spec``, ``tasks``) and what is shown back (``status``)."""

from multitask_api.resource.model import MultiTaskModel
from multitask_api.resource.parsing import parse
from multitask_api.resource.spec import MultiTaskModelSpec
from multitask_api.resource.tasks import TaskSpec

__all__ = ["MultiTaskModel", "MultiTaskModelSpec", "TaskSpec", "parse"]
