"""What the pod's probes answer: the state that `monitor` keeps, read by the threads of `probes`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from multitask_api.serving_io.names import LIVENESS_SECONDS
from multitask_serving.pod.golden import GoldenCheck


@dataclass(frozen=True)
class Answer:
    """The answer to a probe: whether it passes, and a JSON object that says why."""

    passes: bool
    body: str


class Health:
    """Thread-safe. ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._state = "Loading"
        self._golden: GoldenCheck | None = None
        self._heard = clock()
        self._in_flight: int | None = None
        self._drain_wanted = False
        self._on_drain: Callable[[], object] = lambda: None
        self._drained = threading.Event()

    # -- what the monitor reports --------------------------------------------------------------------------------------

    def model_is_loaded(self) -> None:
        """Triton is ready, and its answers are being checked."""
        with self._lock:
            self._state, self._heard = "Checking", self._clock()

    def started(self, check: GoldenCheck) -> None:
        """The golden requests are answered."""
        with self._lock:
            self._state, self._golden, self._heard = "Serving", check, self._clock()

    def alive(self) -> None:
        """The model process has advanced an answer, or given one."""
        with self._lock:
            self._heard = self._clock()

    def in_flight(self, requests: int) -> None:
        """So many requests have not ended."""
        with self._lock:
            self._in_flight = requests

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Call ``callback``, from any thread, when the pod is to be drained."""
        with self._lock:
            self._on_drain = callback
            wanted = self._drain_wanted
        if wanted:
            callback()

    def drained(self) -> None:
        """Nothing is in flight any more, or it has taken too long."""
        self._drained.set()

    # -- what Kubernetes asks ------------------------------------------------------------------------------------------

    def startup(self) -> Answer:
        """Passes once the golden requests are answered, and from then on."""
        with self._lock:
            return self._answer(passes=self._golden is not None)

    def ready(self) -> Answer:
        """Passes from then on until the pod is drained."""
        with self._lock:
            return self._answer(passes=self._golden is not None and not self._drain_wanted)

    def live(self) -> Answer:
        """Fails when the model process has given no sign of life for `LIVENESS_SECONDS` since it was loaded."""
        with self._lock:
            silent = self._clock() - self._heard
            return self._answer(passes=self._state == "Loading" or silent < LIVENESS_SECONDS)

    def drain(self, timeout_s: float) -> Answer:
        """Be no longer ready, and wait until nothing is in flight, for at most ``timeout_s`` seconds.

        A pod that has never been ready has nothing in flight.
        """
        self.want_drain()
        done = not self.startup().passes or self._drained.wait(timeout_s)
        with self._lock:
            return self._answer(passes=done)

    def want_drain(self) -> None:
        """Be no longer ready."""
        with self._lock:
            self._state, self._drain_wanted = "Draining", True
            callback = self._on_drain
        callback()

    def _answer(self, *, passes: bool) -> Answer:
        body: dict[str, object] = {"state": self._state, "secondsSinceAnswer": round(self._clock() - self._heard, 1)}
        if self._in_flight is not None:
            body["inFlight"] = self._in_flight
        if self._golden is not None:
            body["golden"] = self._golden.to_json()
        return Answer(passes, json.dumps(body))
