"""Sends a request to a Triton server; if that is unavailable before its first response, to another one."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

from multitask_api.routes import Backend
from multitask_serving.gateway.backends import Backends
from multitask_serving.gateway.choice import Preference, Server, choose
from multitask_serving.gateway.endpoints import Endpoints
from multitask_serving.gateway.errors import DeadlineExceeded, NoBackend, StatusError
from multitask_serving.gateway.retry_budget import RetryBudget
from multitask_serving.gateway.routes import Route, RouteTable
from multitask_serving.gateway.stats import CountedRequest, Stats
from multitask_serving.triton.client import InferResponse
from multitask_serving.triton.wire import Options

ATTEMPTS = 3
"""A request is sent to at most so many servers."""


DEVICE_TIMEOUT_S = 2.0
"""For the question what computes a server's answers."""


class Answer(NamedTuple):
    """A response of a server, and the revision that the routes name for it. ``device`` computed it; empty: not known,
    or the request did not name its revision."""

    response: InferResponse
    revision: str
    device: str = ""


class Dispatcher:
    """All requests of a gateway. ``draw`` gives random numbers in [0, 1)."""

    def __init__(self, endpoints: Endpoints, stats: Stats, draw: Callable[[], float] = random.random) -> None:
        self.backends = Backends()
        self.stats = stats
        self.retries: Counter[str] = Counter()
        """Of each model, as ``namespace/model``: attempts after the first one of a request."""
        self.retries_refused: Counter[str] = Counter()
        """Of each model: requests that failed because there were too many retries."""
        self._endpoints = endpoints
        self._draw = draw
        self._budgets: dict[str, RetryBudget] = {}

    def follow(self, table: RouteTable) -> None:
        """Forget what is not routed any more, and begin the windows of ``table``."""
        self.stats.follow(table)
        self.follow_endpoints(table)
        models = {route.model for route in table.routes}
        self._budgets = {model: budget for model, budget in self._budgets.items() if model in models}

    def follow_endpoints(self, table: RouteTable) -> None:
        """Close the connections to servers that are gone."""
        addresses = self._endpoints.addresses
        self.backends.keep(
            {
                address
                for (namespace, *_), backend in table.services().items()
                for address in addresses(namespace, backend)
            }
        )

    async def answers(
        self, route: Route, fields: Mapping[str, str], options: Options, preference: Preference, *, timeout_s: float
    ) -> AsyncGenerator[Answer, None]:
        """One Triton server's responses, within ``timeout_s`` seconds in total. Raises `StatusError`."""
        deadline = time.monotonic() + timeout_s
        budget = self._budget(route.model)
        budget.request()
        attempts = _Attempts()
        pinned = bool(preference.revision)
        tried: list[str] = []
        last: NoBackend | None = None
        with attempts:
            while len(tried) < ATTEMPTS:
                try:
                    backend, address = self._choose(route, preference, tried)
                except NoBackend as none_left:
                    raise last or none_left from None
                if last is not None and not budget.allows_retry():
                    self.retries_refused[route.model] += 1
                    raise last
                self.retries[route.model] += last is not None
                tried.append(address)
                started, device = False, ""
                if pinned:
                    left = max(0.0, min(DEVICE_TIMEOUT_S, deadline - time.monotonic()))
                    device = await self.backends.device(address, timeout_s=left)
                attempt = self._attempt(
                    route, backend.revision, address, fields, options, deadline, attempts, pinned=pinned
                )
                try:
                    async with aclosing(attempt) as responses:
                        async for response in responses:
                            started = True
                            yield Answer(response, backend.revision, device)
                    return
                except NoBackend as error:
                    if started:
                        raise
                    last = error
            if last is not None:
                raise last

    def _choose(self, route: Route, preference: Preference, tried: Sequence[str]) -> tuple[Backend, str]:
        def servers(backend: Backend) -> Sequence[Server]:
            return self.backends.servers(self._endpoints.addresses(route.namespace, backend))

        return choose(route, servers, self._draw, preference, tried)

    def _budget(self, model: str) -> RetryBudget:
        """Each model has its own: one whose servers fail must not take the retries of the others."""
        budget = self._budgets.get(model)
        if budget is None:
            budget = self._budgets[model] = RetryBudget()
        return budget

    async def _attempt(
        self,
        route: Route,
        revision: str,
        address: str,
        fields: Mapping[str, str],
        options: Options,
        deadline: float,
        attempts: _Attempts,
        *,
        pinned: bool,
    ) -> AsyncGenerator[InferResponse, None]:
        """One Triton server's responses; the request is counted in the statistics."""
        started = time.monotonic()
        status, has_begun, is_open = "CANCELLED", False, False
        if started >= deadline:
            raise DeadlineExceeded("the deadline passed before the request was sent to a server; allow more time")
        timeout_s = deadline - started
        counted = self.stats.begin(route.full_name, revision, pinned=pinned)
        inference = self.backends.infer(address, route.task.name, fields, options, timeout_s=timeout_s)
        try:
            async with aclosing(inference) as responses:
                async for response in responses:
                    if not options.stream or response.labels or response.finish_reason:
                        status = ""
                    has_begun = True
                    yield response
        except NoBackend as error:
            status, is_open = error.code.name, not has_begun
            raise
        except StatusError as error:
            status = error.code.name
            raise
        finally:
            now = time.monotonic()
            if status == "CANCELLED" and now >= deadline:  # at the deadline gRPC cancels before Triton reports
                status = "DEADLINE_EXCEEDED"
            if is_open:
                attempts.failed(revision, counted, status)
            else:
                attempts.ended(revision)
                counted.end(seconds=now - started, error=status or None)


class _Attempts:
    """The attempts of one request that found a server unavailable. A request that another server answered did not fail
    for its caller; one that nobody answered counts once for each revision that it was sent to."""

    def __init__(self) -> None:
        self._open: dict[str, CountedRequest] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for counted in self._open.values():
            counted.settle(failed=isinstance(error, StatusError))

    def failed(self, revision: str, counted: CountedRequest, status: str) -> None:
        """A server of the revision was unavailable."""
        self.ended(revision)
        counted.fail(status)
        self._open[revision] = counted

    def ended(self, revision: str) -> None:
        """A later attempt speaks for the revision."""
        earlier = self._open.pop(revision, None)
        if earlier is not None:
            earlier.settle(failed=False)
