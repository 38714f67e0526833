"""The routing rule, watched from the gateways' own counters.

A shared model answers a task only if it qualified, or is surely better where the verdict is open.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from devcluster import objects
from e2e.in_cluster.namespace import Namespace
from e2e.in_cluster.serving import GATEWAY_PODS, record_of
from e2e.in_cluster.steps import OPERATOR_NAMESPACE
from multitask_api.bundle import BASELINE
from multitask_api.serving_io.gateway_state import STATE_PORT, GatewayState
from multitask_api.serving_io.revision import RevisionTask
from multitask_api.stage_io.results import EvaluateResult, TaskVerdict

_SECONDS = 1.0
"""Between two looks; a window of a rollout, after which counters begin at 0, is longer."""
_GATEWAYS = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods?labelSelector={GATEWAY_PODS}"


class RoutingRule:
    """Looks at the counters of all gateways from its start to its end. ``stages``: the folder of the artifacts."""

    def __init__(self, namespace: Namespace, stages: Path) -> None:
        self._namespace = namespace
        self._stages = stages
        self._used: dict[tuple[str, str], RevisionTask] = {}
        self._unknown: set[tuple[str, str]] = set()
        self._looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def assert_kept(self) -> str:
        """Every revision had requests only of tasks that it may answer; how much was seen."""
        unknown = sorted(self._unknown - self._used.keys())
        assert not unknown, f"no record says what answers {unknown}"
        verdicts = read_verdicts(self._stages)
        wrong = {pair: task for pair, task in self._used.items() if not may_answer(task, verdicts)}
        assert not wrong, f"routed against the rule: {wrong}"
        assert self._used, "the gateways counted nothing"
        shared = sum(task.served_by != BASELINE for task in self._used.values())
        revisions = {revision for _, revision in self._used}
        return (
            f"{len(self._used)} pairs of task and revision, {shared} by a shared model, {len(revisions)} revisions, "
            f"in {self._looks} looks"
        )

    def _watch(self) -> None:
        with httpx.Client(trust_env=False, timeout=2) as http:
            while not self._stop.wait(_SECONDS):
                for address in self._addresses():
                    try:
                        state = GatewayState.model_validate_json(
                            http.get(f"http://{address}:{STATE_PORT}/state").content
                        )
                    except (httpx.HTTPError, ValueError):
                        continue  # it begins or ends
                    self._looks += 1
                    for counts in state.counts:
                        if counts.requests:
                            self._add(counts.task, counts.revision)

    def _addresses(self) -> list[str]:
        try:
            pods = objects.get(self._namespace.rest, _GATEWAYS)["items"]
        except httpx.HTTPError:
            return []
        return [pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP")]

    def _add(self, name: str, revision: str) -> None:
        """Reads the revision's record at once: it may be deleted later."""
        if (name, revision) in self._used:
            return
        _, model, task = name.split("/")
        record = record_of(self._namespace, model, revision)
        found = next((each for each in record.tasks if each.name == task), None) if record else None
        if found is None:
            self._unknown.add((name, revision))
        else:
            self._used[name, revision] = found


def may_answer(task: RevisionTask, verdicts: list[TaskVerdict]) -> bool:
    """Whether what the revision has for the task may answer it, by the verdicts that were given."""
    if task.served_by == BASELINE:
        return True
    its = [each for each in verdicts if (each.task, each.score, each.verdict) == (task.name, task.score, task.verdict)]
    return bool(its) and all(each.verdict == "Qualified" or each.is_surely_better for each in its)


def read_verdicts(stages: Path) -> list[TaskVerdict]:
    """All verdicts that evaluations have stored below the folder."""
    manifests = [json.loads(path.read_text("utf-8")) for path in (stages / "evaluate").rglob("manifest.json")]
    return [verdict for each in manifests for verdict in EvaluateResult.model_validate(each["result"]).tasks]
