"""Which revision answers a request, and which of its servers. Pure: chance and what is known come as arguments."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from multitask_api.routes import Backend
from multitask_serving.gateway.errors import NoBackend, RevisionNotFound
from multitask_serving.gateway.routes import Route


@dataclass(frozen=True, slots=True)
class Preference:
    """What a caller asks for in metadata. ``revision``: this one, whatever its weight. ``key``: requests of one key get
    one revision, as long as that is routed and has servers."""

    revision: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a backend. ``suspect``: its latest request found it unavailable, a moment ago."""

    address: str
    in_flight: int = 0
    suspect: bool = False


def choose(
    route: Route,
    servers: Callable[[Backend], Sequence[Server]],
    draw: Callable[[], float],
    preference: Preference,
    tried: Collection[str] = (),
) -> tuple[Backend, str]:
    """The backend and the address of its server for a request, which was already sent to ``tried`` addresses.

    Backends without a server get no share; suspect servers are asked only if there are no others. ``draw`` gives random
    numbers in [0, 1). Raises `RevisionNotFound` or `NoBackend`.
    """
    left = [
        (backend, [server for server in servers(backend) if server.address not in tried])
        for backend in _candidates(route, preference.revision)
    ]
    healthy = [(backend, [server for server in known if not server.suspect]) for backend, known in left]
    for pool in (healthy, left):
        available = {number: known for number, (_, known) in enumerate(pool) if known}
        if available:
            backends = {number: pool[number][0] for number in available}
            number = _choose_backend(backends, route.model, draw, preference.key)
            return backends[number], _least_busy(available[number], draw).address
    where = f"of revision {preference.revision!r} " if preference.revision else ""
    raise NoBackend(f"no server {where}of task {route.name!r} is available; try again in a moment")


def _candidates(route: Route, revision: str) -> Sequence[Backend]:
    """The backends of the pinned revision, or those that have a weight."""
    backends = route.task.backends
    if not revision:
        return [backend for backend in backends if backend.weight > 0]
    pinned = [backend for backend in backends if backend.revision == revision]
    if not pinned:
        raise RevisionNotFound(route.name, revision, sorted({backend.revision for backend in backends}))
    return pinned


def _choose_backend(backends: dict[int, Backend], model: str, draw: Callable[[], float], key: str) -> int:
    weights = {number: backend.weight for number, backend in backends.items()}
    if not any(weights.values()):  # a pinned revision that is not rolled out
        weights = dict.fromkeys(weights, 1)
    if key:
        return max(weights, key=lambda number: _score(f"{model}\0{key}\0{backends[number].revision}", weights[number]))
    remaining = draw() * sum(weights.values())
    for number, weight in weights.items():
        remaining -= weight
        if remaining < 0:
            return number
    return number


def _score(text: str, weight: int) -> float:
    """Weighted rendezvous hashing (Schindelhauer and Schomaker 2005): of all keys, each backend has the highest score
    for a share in proportion to its weight. A weight that grows takes keys from the others, and moves none between
    them."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return -weight / math.log((int.from_bytes(digest, "big") + 0.5) / 2**64)


def _least_busy(servers: Sequence[Server], draw: Callable[[], float]) -> Server:
    """The less busy one of two random servers (Mitzenmacher 2001): the least busy of all would get every request of a
    moment from each of several gateways."""
    first = int(draw() * len(servers))
    if len(servers) == 1:
        return servers[0]
    second = int(draw() * (len(servers) - 1))
    second += second >= first
    return min(servers[first], servers[second], key=lambda server: server.in_flight)
