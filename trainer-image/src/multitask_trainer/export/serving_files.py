"""The small files that servers and probes read beside the bundle: routes and golden requests."""

from __future__ import annotations

import json
from collections.abc import Sequence

import yaml

from multitask_api.bundle import Bundle, ServedTask
from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_api.serving_io.revision import MAX_GOLDEN_PER_TASK
from multitask_serving.engine.prompt.template import fields_of_pieces
from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.answers import Answer

SERVICE, PORT = "127.0.0.1", 8001
"""Triton's address in the routes; a program that starts Triton elsewhere rewrites it."""


def routes_yaml(bundle: Bundle, model: str) -> str:
    """The TaskRoute that sends every task of the bundle to one local server."""
    tasks = tuple(
        RoutedTask(
            name=task.name,
            type=task.type,
            fields=fields_of_pieces(task.pieces),
            labels=tuple(label.label for label in task.labels),
            served_by=task.served_by,
            backends=(Backend(service=SERVICE, port=PORT, weight=100, revision=bundle.revision),),
        )
        for task in bundle.tasks
    )
    route = TaskRoute(metadata=RouteMetadata(name=model), spec=TaskRouteSpec(model=model, tasks=tasks))
    return yaml.safe_dump(route.to_json(), sort_keys=False, allow_unicode=True)


def golden_lines(
    task: ServedTask, rows: Sequence[Row], answers: Sequence[Answer], near_tie: float, device: str | None = None
) -> list[str]:
    """Up to 200 requests of a task with the answers they had, evenly spread over the test rows; JSON lines.

    Where the answer led by less than ``near_tie`` nats, the line has ``"nearTie": true``: a correct server may differ.
    ``device`` computed the answers; None: it is not known.
    """
    step = max(1, -(-len(rows) // MAX_GOLDEN_PER_TASK))
    key = "label" if task.type == "Classification" else "text"
    # ASCII: some readers take characters that JSON allows in a string, such as U+2028, for the end of a line.
    return [
        json.dumps(
            {
                "task": task.name,
                "fields": dict(row.fields),
                key: answer.prediction,
                "nearTie": answer.margin < near_tie,
                **({} if device is None else {"device": device}),
            }
        )
        + "\n"
        for row, answer in zip(rows[::step], answers[::step], strict=True)
    ]
