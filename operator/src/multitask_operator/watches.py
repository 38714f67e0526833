"""Watches: an event of a model or of one of its children puts the model's key into the queue, and nothing more.

They run in a thread of their own: kopf ends by cancelling every task of its event loop, and ours have to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any, cast

import kopf

from multitask_api.cluster import GROUP, MANAGED_BY, MANAGED_BY_LABEL, MODEL_LABEL
from multitask_operator.cluster.connection import Login
from multitask_operator.controller import NamespacedName

Enqueue = Callable[[NamespacedName, float], None]
"""Called with a key and the seconds after which it is due; from the thread of the watches."""

LogIn = Callable[[], Awaitable[Login]]

#: Events of children come in bursts (our own writes among them): one reconcile for all of a burst.
DEBOUNCE_SECONDS = 0.2

MODELS = (GROUP, "v1alpha1", "multitaskmodels")
CHILDREN = (("batch", "v1", "jobs"), ("", "v1", "pods"), ("", "v1", "configmaps"))


def watch(
    enqueue: Enqueue, log_in: LogIn, namespaces: Sequence[str], stop: Future[None], watching: threading.Event
) -> None:
    """Watch until ``stop`` is done, in ``namespaces`` or, if there are none, everywhere. To be called in a thread.

    ``watching`` is set once the watches have begun. Raises kopf's error when a watch cannot go on: the kind or the
    permission is gone.
    """
    asyncio.run(_watch(enqueue, log_in, namespaces, stop, watching))


async def _watch(
    enqueue: Enqueue, log_in: LogIn, namespaces: Sequence[str], stop: Future[None], watching: threading.Event
) -> None:
    loop = asyncio.get_running_loop()
    flag = asyncio.Event()

    def raise_flag(_: Future[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(flag.set)

    # kopf's own wait for a flag of another thread never ends its thread when a watch fails.
    stop.add_done_callback(raise_flag)
    await kopf.operator(
        registry=_registry(enqueue, log_in),
        settings=_settings(),
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        standalone=True,
        # The default would contain the user's name, which an image need not have; without peering nobody reads it.
        identity=cast(Any, "multitask-operator"),  # a NewType of str that is not public
        stop_flag=flag,
        ready_flag=watching,
    )


def _registry(enqueue: Enqueue, log_in: LogIn) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def logged_in(**_: Any) -> kopf.ConnectionInfo:
        login = await log_in()
        return kopf.ConnectionInfo(
            server=login.server,
            ca_path=login.ca_path,
            insecure=not login.verify,
            certificate_path=login.certificate_path,
            private_key_path=login.private_key_path,
            scheme=login.scheme,
            token=login.token,
            proxy_url=login.proxy,
        )

    @kopf.on.event(*MODELS, registry=registry)
    async def model_changed(*, namespace: str | None, name: str, **_: Any) -> None:
        enqueue(NamespacedName(namespace or "", name), 0.0)

    async def child_changed(*, namespace: str | None, labels: kopf.Labels, **_: Any) -> None:
        enqueue(NamespacedName(namespace or "", labels[MODEL_LABEL]), DEBOUNCE_SECONDS)

    for group, version, plural in CHILDREN:
        kopf.on.event(group, version, plural, labels={MODEL_LABEL: kopf.PRESENT}, registry=registry)(child_changed)
    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = None  # it would kill the thread's process
    # CRDs and namespaces are not scanned, which would take more permissions: the caller has seen that the CRD exists.
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.watching.label_selectors.update(dict.fromkeys(CHILDREN, f"{MANAGED_BY_LABEL}={MANAGED_BY},{MODEL_LABEL}"))
    settings.watching.chunk_size = 100
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    return settings


class _NoDiffs(kopf.DiffBaseStorage):
    """Keeps no last-handled state to compare with; the default copies every object that arrives."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        return None
