"""Gets a task's answer from a gateway, for fields on the command line or for each row of a file.

Each row of a file has the fields of ``TASK``, or of the task that its own field ``task`` names. What is no field of the
task (a label, for example) is ignored. Answers are in the file's order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multitask_api.errors import MultitaskError, UserError
from multitask_api.template import field_text
from multitask_client import AsyncTaskClient, GatewayError, InvalidRequest, Prediction, Sampling, Tls
from multitask_serving.cli_common import (
    LAST_PORT,
    ArgumentParser,
    parse_host_port,
    program_name,
    replace_unencodable_characters,
)

MAX_CONCURRENCY = 32
_FILE_HELP = (
    "rows as JSON lines; `mtm predict` reads all that training reads (csv, parquet, .gz …); - is standard input"
)

FileRow = tuple[str, Mapping[str, object]]
"""The location of a row in a file (``file:line``), for errors, and its values."""

RowReader = Callable[[str, Collection[str] | None], Iterable[FileRow]]
"""Reads the file that ``--file`` names, given the fields that count (None: all). Raises `BadArguments`."""


class BadArguments(UserError):
    """The command line or the file cannot be used. One line a problem; ``more`` others are not listed."""

    def __init__(self, message: str, *, more: int = 0) -> None:
        self.more = more
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row of a file: the task, its fields, and the row's location (file:line) for errors."""

    task: str
    fields: dict[str, str]
    location: str = ""


def parse_fields(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``field=value`` arguments. Raises `BadArguments`."""
    fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadArguments(f"{pair!r} is not field=value; quote values with spaces: text='My card is lost'")
        if name in fields:
            raise BadArguments(f"field {name!r} is given twice")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadArguments(f"field {name!r} is not UTF-8; convert the text, or give it with --file") from error
        fields[name] = value
    return fields


def read_json_lines(name: str, fields: Collection[str] | None = None) -> Iterator[FileRow]:
    """The rows of a file of JSON lines; ``-`` is standard input. Raises `BadArguments` with the line's number."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadArguments(f"{name} cannot be read: {error}") from error
    lines = text.removeprefix("\ufeff").split("\n")  # splitlines() would cut at U+2028 inside a text
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        location = f"{name}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadArguments(f"{location} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadArguments(f"{location} is {type(row).__name__}; each line is a JSON object of fields")
        yield location, row


def input_rows(rows: Iterable[FileRow], task: str | None) -> Iterator[InputRow]:
    """The requests that the rows of a file stand for. Raises `BadArguments` with the row's location."""
    for location, row in rows:
        name = task or row.get("task")
        if not isinstance(name, str):
            raise BadArguments(f"{location} names no task; give TASK, or a key 'task' in every row")
        texts = {key: field_text(value) for key, value in row.items() if task or key != "task"}
        yield InputRow(name, {key: text for key, text in texts.items() if text is not None}, location)


async def predict_all(
    client: AsyncTaskClient, rows: Sequence[InputRow], options: Mapping[str, Any]
) -> AsyncIterator[tuple[InputRow, Prediction | GatewayError]]:
    """Predict all rows, at most `MAX_CONCURRENCY` at a time; yields each with its answer or error, in order."""
    semaphore = asyncio.Semaphore(MAX_CONCURRENCY)
    field_names: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def fields_of(task: str) -> tuple[str, ...]:
        return (await client.task(task)).fields

    async def predict(row: InputRow) -> Prediction | GatewayError:
        async with semaphore:
            try:
                if row.task not in field_names:  # one request for each task
                    field_names[row.task] = asyncio.ensure_future(fields_of(row.task))
                known = await field_names[row.task]
                fields = {name: text for name, text in row.fields.items() if name in known}
                return await client.predict(row.task, fields, **options)
            except GatewayError as error:
                return error

    predictions = [asyncio.ensure_future(predict(row)) for row in rows]
    for row, prediction in zip(rows, predictions, strict=True):
        yield row, await prediction


def main(arguments: Sequence[str] | None = None, *, read_file: RowReader = read_json_lines) -> int:
    """Run the program; ``read_file`` reads the files that ``--file`` names, but not standard input.

    Exit status 0: everything was answered; 1: something was not; 2: wrong arguments or file.
    """
    replace_unencodable_characters()
    options = _parser().parse_intermixed_args(arguments)  # an option may stand between TASK and its fields
    try:
        if parse_host_port(options.address) is None:
            expected = f"host:port with a port from 1 to {LAST_PORT}, for example 127.0.0.1:8081"
            raise BadArguments(f"--address {options.address!r} is not {expected}")
        if options.file is not None:
            return asyncio.run(_predict_file(options, read_json_lines if options.file == "-" else read_file))
        if options.task is None:
            return asyncio.run(_list_tasks(options))
        return asyncio.run(_predict_one(options))
    except BadArguments as error:
        return _print_error(error, 2, error.more)
    except (MultitaskError, GatewayError) as error:
        return _print_error(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at the end
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=program_name("multitask_serving.predict"),
        description=__doc__,
        epilog="Without TASK and --file it lists the tasks.",
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help="the task's name")
    parser.add_argument("fields", nargs="*", metavar="field=value", help="the task's fields")
    parser.add_argument("--address", default="127.0.0.1:8081", help="the gateway (default: %(default)s)")
    parser.add_argument("--api-key-file", type=Path, help="file with the API key, for a gateway that wants one")
    parser.add_argument("--ca", type=Path, help="PEM file of the authority of the gateway's certificate; means --tls")
    parser.add_argument("--cert", type=Path, help="PEM file of the own certificate; means --tls, needs --key")
    parser.add_argument("--key", type=Path, help="PEM file of the key of --cert")
    parser.add_argument("--tls", action="store_true", help="encrypt, with the public certificate authorities")
    parser.add_argument("--server-name", help="the name in the gateway's certificate, if not that of --address")
    parser.add_argument("--file", help=_FILE_HELP)
    parser.add_argument("--output", choices=["text", "json"], default="text", help="default: %(default)s")
    parser.add_argument("--stream", action="store_true", help="print a text as it is generated")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds a call may take (default: %(default)s)")
    parser.add_argument("--revision", help="use this revision instead of the routes' weights")
    parser.add_argument("--max-new-tokens", type=int, help="generation: at most this many tokens")
    parser.add_argument("--temperature", type=float, help="generation: 0 is greedy")
    parser.add_argument("--top-p", type=float, help="generation: sample from the tokens with this total probability")
    parser.add_argument("--seed", type=int, help="generation: the same seed gives the same text")
    return parser


def _call_options(options: argparse.Namespace) -> dict[str, Any]:
    for name, value, bits in (("--max-new-tokens", options.max_new_tokens, 32), ("--seed", options.seed, 64)):
        if value is not None and not 0 <= value < 1 << bits:
            raise BadArguments(f"{name} is {value}; it must be from 0 to {(1 << bits) - 1}")
    values = (options.max_new_tokens, options.temperature, options.top_p, options.seed)
    sampling = Sampling(*values) if any(value is not None for value in values) else None
    return {"revision": options.revision, "sampling": sampling}


def _client(options: argparse.Namespace) -> AsyncTaskClient:
    """The connection. Raises `BadArguments` for files that cannot be used."""
    if (options.cert is None) != (options.key is None):
        raise BadArguments("--cert and --key belong together")
    tls: Tls | bool = bool(options.tls or options.ca or options.cert or options.server_name)
    if tls:
        tls = Tls(options.ca, options.cert, options.key, options.server_name)
    try:
        key = None if options.api_key_file is None else options.api_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArguments(f"--api-key-file {options.api_key_file} cannot be read: {error}") from error
    try:
        return AsyncTaskClient(options.address, timeout_s=options.timeout, api_key=key, tls=tls)
    except InvalidRequest as error:
        raise BadArguments(str(error)) from error


async def _predict_one(options: argparse.Namespace) -> int:
    fields = parse_fields(options.fields)
    async with _client(options) as client:
        if not options.stream:
            _print_prediction(await client.predict(options.task, fields, **_call_options(options)), options.output)
            return 0
        async for part in client.predict_stream(options.task, fields, **_call_options(options)):
            if isinstance(part, str) and options.output == "text":
                _write(part)
            elif isinstance(part, Prediction):
                _write("\n") if options.output == "text" else _print_prediction(part, options.output)
    return 0


async def _predict_file(options: argparse.Namespace, read_file: RowReader) -> int:
    if options.fields:
        raise BadArguments("give fields in the file or on the command line, not both")
    failed = 0
    async with _client(options) as client:
        used = await _fields_of(client, options.task)
        rows = list(input_rows(read_file(options.file, used), options.task))
        async for row, answer in predict_all(client, rows, _call_options(options)):
            if isinstance(answer, Prediction):
                _print_prediction(answer, options.output)
                continue
            failed += 1
            _print_error(f"{row.location}: {answer}", 1)
            if options.output == "json":
                _write(json.dumps({"task": row.task, "error": str(answer), "reason": answer.reason}) + "\n")
    if failed:
        _print_error(f"{failed} of {len(rows)} rows were not answered", 1)
    return 1 if failed else 0


async def _fields_of(client: AsyncTaskClient, task: str | None) -> tuple[str, ...] | None:
    """The fields that are read of every row; None if rows name their tasks themselves, or the gateway cannot say."""
    try:
        return None if task is None else (await client.task(task)).fields
    except GatewayError:  # it is reported for the rows, once the file is known to be one
        return None


async def _list_tasks(options: argparse.Namespace) -> int:
    async with _client(options) as client:
        for task in await client.tasks():
            if options.output == "json":
                _write(json.dumps(asdict(task), ensure_ascii=False) + "\n")
            else:
                labels = f" → {', '.join(task.labels)}" if task.labels else ""
                _write(f"{task.name}  {task.type}  ({', '.join(task.fields)}){labels}  by {task.served_by}\n")
    return 0


def _print_prediction(prediction: Prediction, output: str) -> None:
    if output == "json":
        content = {key: value for key, value in asdict(prediction).items() if value or key in {"label", "text"}}
        _write(json.dumps(content, ensure_ascii=False) + "\n")
        return
    _write(prediction.answer)
    if prediction.scores:
        ranked = sorted(prediction.scores.items(), key=lambda pair: -pair[1])[:5]
        _write("  (" + ", ".join(f"{label} {score:.3f}" for label, score in ranked) + ")")
    _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_error(error: object, status: int, more: int = 0) -> int:
    lines = str(error).splitlines() or [""]
    rest = [f"and {more} more"] if more else []
    text = lines[0] if len(lines) == 1 else "\n".join([f"{len(lines) + more} problems", *lines, *rest])
    sys.stderr.write(f"error: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
