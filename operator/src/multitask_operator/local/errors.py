"""What can go wrong around a local run, besides the stages themselves."""

from __future__ import annotations

from multitask_api.errors import UserError


class WorkdirError(UserError):
    """A work folder is in use, missing, or not one."""


class NotLocal(UserError):
    """The resource uses what only a cluster has."""


class DataCheckFailed(UserError):
    """Data or base model cannot be reached, or are not what the resource says."""
