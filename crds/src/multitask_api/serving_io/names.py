"""Labels, annotations, ports and paths of serving in a cluster.

Every constant here is on the wire: a revision keeps its image, so a newer operator talks to older servers.
"""

from __future__ import annotations

GROUP = "multitask.dev"

SERVING = "serving"
"""Value of the label ``multitask.dev/kind`` on all objects of a revision."""
REVISION_LABEL = f"{GROUP}/revision"
"""On all objects of a revision: its name, 8 hexadecimal digits."""
ROUTE_COPY_KEY = "route.json"
"""In ``data`` of the ConfigMap from which the operator makes a TaskRoute again that somebody deleted: a `TaskRoute`
without what the gateways wrote."""

# -- annotations on the MultiTaskModel, set by `mtm rollout` and `mtm rollback`; a new value is a new order ------------

ROLLOUT_ANNOTATION = f"{GROUP}/rollout"
"""``ACTION REVISION TIME``: ``pause``, ``resume``, ``promote`` or ``abort`` the rollout to that revision."""
ROLLBACK_ANNOTATION = f"{GROUP}/rollback"
"""A revision to serve instead of the newest one, until it is removed."""
RETRY_ANNOTATION = f"{GROUP}/retry"
"""A rejected revision that may be tried again."""
APPROVAL_ANNOTATION = f"{GROUP}/approved"
"""The id in ``status.approval`` of the revision that may take traffic, with ``approval: Manual``."""
IMAGE_ANNOTATION = f"{GROUP}/adopt-serving-image"
"""A new value makes a new revision with the serving image of the installed release."""

# -- the pods of a revision --------------------------------------------------------------------------------------------

SERVER_CONTAINER = "server"
FETCH_CONTAINER = "fetch"
"""The init container that copies the exported result from storage, and checks its digest."""
TRITON_PORT = 8001
"""gRPC; named ``grpc`` in pod and Service."""
PROBE_PORT = 8080
"""HTTP, named ``probes``: ``/startup``, ``/ready``, ``/live``, and ``/drain`` for preStop."""
DRAIN_SECONDS = 60
"""``/drain`` answers after so many seconds at most: gateways have then chosen other pods, and answers are complete."""
LIVENESS_SECONDS = 120
"""A server without any sign of life for so long fails ``/live``; the probe itself answers at once."""
REVISION_PATH = "/multitask/revision"
"""Where the ConfigMap of the revision is mounted."""
EXPORT_PATH = "/multitask/export"
"""An emptyDir with the copy of the exported result: ``bundle/`` and ``golden.jsonl``."""
NODE_CACHE_VARIABLE = "MULTITASK_NODE_CACHE"
"""A folder of the node (a mounted hostPath or local volume) in which fetched bundles stay; unset: none.

Both containers mount it at the same path: the files in `EXPORT_PATH` are then links into it.
"""
CACHE_LOCK = ".in-use"
"""A file in each copy of the node's cache, on which its servers hold a shared lock."""

FETCH_COMMAND = ("python", "-m", "multitask_trainer.fetch")
"""The init container of servers, in the serving image."""
SERVER_COMMAND = ("python", "-m", "multitask_serving.pod")
GATEWAY_COMMAND = ("python", "-m", "multitask_serving.gateway")

GATEWAY_PORT = 8081
"""gRPC for callers."""
GATEWAY_AUDIENCE = "multitask-gateway"
"""Of the ServiceAccount tokens that pods show to the gateway."""
