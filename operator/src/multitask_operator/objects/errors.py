"""What a spec asks for that no Kubernetes object can express."""

from __future__ import annotations

from multitask_api.errors import UserError


class ObjectError(UserError):
    """The root of this tree; the message names the field of the spec and what to change."""


class PodTemplateError(ObjectError):
    """An additional pod template is malformed, or changes what the operator relies on."""


class ResourcesError(ObjectError):
    """``spec.training.resources`` is malformed."""


class TooLarge(ObjectError):
    """A pod's orders do not fit into a ConfigMap."""
