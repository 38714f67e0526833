"""The clients under the name that they had before they became a distribution of their own, `multitask_client`."""

from multitask_client import (
    AsyncTaskClient,
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    Overloaded,
    Prediction,
    Sampling,
    Task,
    TaskClient,
    TaskNotFound,
    Unavailable,
)

__all__ = [
    "AsyncTaskClient",
    "DeadlineExceeded",
    "GatewayError",
    "InvalidRequest",
    "Overloaded",
    "Prediction",
    "Sampling",
    "Task",
    "TaskClient",
    "TaskNotFound",
    "Unavailable",
]
