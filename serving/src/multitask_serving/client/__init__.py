"""Python clients of the gateway: `TaskClient` and, for asyncio, `AsyncTaskClient`."""

from multitask_serving.client.aio import AsyncTaskClient
from multitask_serving.client.errors import (
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    Overloaded,
    TaskNotFound,
    Unavailable,
)
from multitask_serving.client.messages import Prediction, Sampling, Task
from multitask_serving.client.sync import TaskClient

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
