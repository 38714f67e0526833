"""Makes the servers of a test faulty under live traffic only: put this folder first on PYTHONPATH of their container.

``FAULTY_ANSWERS`` is JSON: task → ``{"wrong": true}`` (each label is the next one of the task) or ``{"seconds": 2}``
(each answer comes so much later). Golden requests, which start and verification send, are answered well: they are read
from ``FAULTY_GOLDEN``, by default the file that the init container has copied.

``python -m multitask_serving.pod`` imports ``sitecustomize`` beside this module when it starts. Triton's model process
does not, so the model file that the program writes is changed to import this module.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

ENGINE, REPOSITORY = "multitask_serving.engine.engine", "multitask_serving.triton.repository"
GOLDEN = "/multitask/export/golden.jsonl"


def make_faulty(engine: Any, faults: Mapping[str, Mapping[str, Any]], golden: Path) -> None:
    """Change the class ``Engine``: answers to requests that are not in ``golden`` get the faults of their task."""
    known = {_key(row["task"], row["fields"]) for row in map(json.loads, golden.read_text().splitlines())}
    classify, generate = engine.classify, engine.generate

    def live(requests: Sequence[Any]) -> list[Mapping[str, Any]]:
        return [
            {} if _key(request.task, request.fields) in known else faults.get(request.task, {}) for request in requests
        ]

    def faulty_classify(self: Any, requests: Sequence[Any]) -> list[Any]:
        found = live(requests)
        time.sleep(max((fault.get("seconds", 0) for fault in found), default=0))
        return [
            _other_label(answer) if fault.get("wrong") else answer
            for fault, answer in zip(found, classify(self, requests), strict=True)
        ]

    def faulty_generate(self: Any, requests: Sequence[Any], **options: Any) -> Any:
        found = live(requests)
        time.sleep(max((fault.get("seconds", 0) for fault in found), default=0))
        for step in generate(self, requests, **options):
            yield replace(step, text_delta=step.text_delta.upper()) if found[step.row].get("wrong") else step

    engine.classify, engine.generate = faulty_classify, faulty_generate


def _other_label(answer: Any) -> Any:
    labels = list(answer.scores)
    label = labels[(labels.index(answer.label) + 1) % len(labels)]
    scores = answer.scores | {label: answer.scores[answer.label], answer.label: answer.scores[label]}
    return replace(answer, label=label, scores=scores)


def _key(task: str, fields: Mapping[str, str]) -> str:
    return json.dumps([task, dict(fields)], sort_keys=True)


class _AfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module as Python would, and changes it then."""

    def __init__(self, name: str, change: Callable[[Any], None]) -> None:
        self._name, self._change = name, change

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        if found is None or found.loader is None:
            return None
        self._loader, found.loader = found.loader, self
        return found

    def create_module(self, spec: Any) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)


def _change_engine(module: Any) -> None:
    golden = Path(os.environ.get("FAULTY_GOLDEN", GOLDEN))
    make_faulty(module.Engine, json.loads(os.environ["FAULTY_ANSWERS"]), golden)


def _change_model_file(module: Any) -> None:
    before = "from multitask_serving.triton.backend import"
    module._MODEL_PY = module._MODEL_PY.replace(before, f"import {__name__}\n{before}", 1)


if os.environ.get("FAULTY_ANSWERS"):
    sys.meta_path.insert(0, _AfterImport(ENGINE, _change_engine))
    sys.meta_path.insert(0, _AfterImport(REPOSITORY, _change_model_file))
