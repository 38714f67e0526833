"""Python clients of the gateway: `TaskClient` and, for asyncio, `AsyncTaskClient`.

A distribution of its own, for programs that only ask: it needs gRPC and protobuf, and nothing else of this product.
``proto`` is the gateway's interface, which the gateway imports from here.
"""

from multitask_client.aio import AsyncTaskClient
from multitask_client.connection import Tls
from multitask_client.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GatewayError,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    TaskNotFound,
    Unauthenticated,
    Unavailable,
)
from multitask_client.messages import Prediction, Sampling, Task
from multitask_client.sync import TaskClient

__all__ = [
    "AsyncTaskClient",
    "DeadlineExceeded",
    "FailedPrecondition",
    "GatewayError",
    "InvalidRequest",
    "Overloaded",
    "PermissionDenied",
    "Prediction",
    "Sampling",
    "Task",
    "TaskClient",
    "TaskNotFound",
    "Tls",
    "Unauthenticated",
    "Unavailable",
]
