"""Asks a gateway for its tasks, and for one answer: what ``helm test`` runs.

Exit status 0: there was an answer; 1: there was none; 2: wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from multitask_client import GatewayError, InvalidRequest, Task, TaskClient, Tls
from multitask_serving.cli_common import ArgumentParser

TEXT = "This is a test."
"""For a field that has no text given."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    options = _parser().parse_args(arguments)
    try:
        key = None if options.api_key_file is None else options.api_key_file.read_text(encoding="utf-8").strip()
        tls = Tls(ca=options.ca) if options.ca else False
        client = TaskClient(options.address, timeout_s=options.timeout, api_key=key, tls=tls)
    except (OSError, InvalidRequest) as error:
        return _fail(str(error), 2)
    with client:
        try:
            return _ask(client, options.task, options.fields)
        except GatewayError as error:
            return _fail(f"{error.status.name}: {error}", 1)


def _ask(client: TaskClient, name: str, fields: Mapping[str, str]) -> int:
    tasks = client.tasks()
    sys.stdout.write(f"{len(tasks)} tasks: {', '.join(task.name for task in tasks) or 'none'}\n")
    if not (tasks or name):
        return _fail("no task is served that this key may call; apply a model, and try again when it is Ready", 1)
    task = client.task(name) if name else tasks[0]
    prediction = client.predict(task.full_name, _texts(task, fields))
    sys.stdout.write(
        f"{task.name} answered {prediction.answer!r}, by {prediction.served_by} of revision {prediction.revision}\n"
    )
    return 0


def _texts(task: Task, fields: Mapping[str, str]) -> dict[str, str]:
    return {field: fields.get(field, TEXT) for field in task.fields}


def _fields(text: str) -> dict[str, str]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        raise argparse.ArgumentTypeError("is no JSON object of texts")
    return fields


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m multitask_serving.gateway.smoke_test", description=__doc__)
    parser.add_argument("--address", required=True, help="the gateway, as host:port")
    parser.add_argument("--ca", type=Path, help="PEM file of the authority of its certificate; none: no TLS")
    parser.add_argument("--api-key-file", type=Path, help="file with the API key")
    parser.add_argument("--task", default="", help="the task to ask; default: the first of the list")
    parser.add_argument("--fields", type=_fields, default={}, help="JSON object of texts; others get one of their own")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a call may take (default: %(default)s)")
    return parser


def _fail(reason: str, status: int) -> int:
    sys.stderr.write(f"error: {reason}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
