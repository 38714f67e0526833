"""Asks a gateway for the answer of one task, given its fields, or for those of a file's rows.

A file holds one JSON object a line: the fields of ``TASK``, or of the task that its own key ``task`` names. Keys that
are no fields of the task (a label, say) are left out. Answers come in the file's order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multitask_api.errors import MultitaskError, UserError
from multitask_api.template import field_text
from multitask_serving.client import AsyncTaskClient, GatewayError, Prediction, Sampling
from multitask_serving.programs import LAST_PORT, host_and_port, program_name

AT_ONCE = 32


class BadArguments(UserError):
    """The command line or the file cannot be used."""


@dataclass(frozen=True, slots=True)
class Question:
    """A task, the fields given for it, and where they come from."""

    task: str
    fields: dict[str, str]
    place: str = ""


def parse_fields(pairs: Sequence[str]) -> dict[str, str]:
    """``field=value`` words as a mapping. Raises `BadArguments`."""
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


def read_questions(lines: Sequence[str], place: str, task: str | None) -> Iterator[Question]:
    """One question a line. Raises `BadArguments` with the line's number."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        here = f"{place}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadArguments(f"{here} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadArguments(f"{here} is {type(row).__name__}; each line is a JSON object of fields")
        name = task or row.get("task")
        if not isinstance(name, str):
            raise BadArguments(f"{here} names no task; give TASK, or a key 'task' in every line")
        texts = {key: field_text(value) for key, value in row.items() if task or key != "task"}
        yield Question(name, {key: text for key, text in texts.items() if text is not None}, here)


async def ask_all(
    client: AsyncTaskClient, questions: Sequence[Question], options: Mapping[str, Any]
) -> AsyncIterator[tuple[Question, Prediction | GatewayError]]:
    """Every question with its answer or error, in order, many at a time."""
    slots = asyncio.Semaphore(AT_ONCE)
    known: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def fields_of(task: str) -> tuple[str, ...]:
        return (await client.task(task)).fields

    async def one(question: Question) -> Prediction | GatewayError:
        async with slots:
            try:
                if question.task not in known:  # asked once, by the first that needs it
                    known[question.task] = asyncio.ensure_future(fields_of(question.task))
                wanted = await known[question.task]
                fields = {name: text for name, text in question.fields.items() if name in wanted}
                return await client.predict(question.task, fields, **options)
            except GatewayError as error:
                return error

    asked = [asyncio.ensure_future(one(question)) for question in questions]
    for question, answer in zip(questions, asked, strict=True):
        yield question, await answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if everything was answered, 1 if not, 2 for a command line that cannot be used."""
    options = _parser().parse_intermixed_args(arguments)  # an option may stand between TASK and its fields
    try:
        if host_and_port(options.address) is None:
            expected = f"host:port with a port from 1 to {LAST_PORT}; 127.0.0.1:8081, for example"
            raise BadArguments(f"--address {options.address!r} is not {expected}")
        if options.file is not None:
            return asyncio.run(_ask_file(options))
        if options.task is None:
            return asyncio.run(_list_tasks(options))
        return asyncio.run(_ask_one(options))
    except BadArguments as error:
        return _complain(error, 2)
    except MultitaskError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the answers has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at the end
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("multitask_serving.predict"),
        description=__doc__,
        epilog="Without TASK and --file it lists the tasks.",
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help="the task's name")
    parser.add_argument("fields", nargs="*", metavar="field=value", help="the task's fields")
    parser.add_argument("--address", default="127.0.0.1:8081", help="the gateway (default: %(default)s)")
    parser.add_argument("--file", help="JSON lines; - is standard input")
    parser.add_argument("--output", choices=["text", "json"], default="text", help="default: %(default)s")
    parser.add_argument("--stream", action="store_true", help="show a generated text as it is made")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds a call may take (default: %(default)s)")
    parser.add_argument("--revision", help="ask this revision, whatever the routes say")
    parser.add_argument("--max-new-tokens", type=int, help="generation: at most this many tokens")
    parser.add_argument("--temperature", type=float, help="generation: 0 is greedy")
    parser.add_argument("--top-p", type=float, help="generation: share of the probability to draw from")
    parser.add_argument("--seed", type=int, help="generation: the same seed gives the same text")
    return parser


def _call_options(options: argparse.Namespace) -> dict[str, Any]:
    for name, value, bits in (("--max-new-tokens", options.max_new_tokens, 32), ("--seed", options.seed, 64)):
        if value is not None and not 0 <= value < 1 << bits:
            raise BadArguments(f"{name} is {value}; it goes from 0 to {(1 << bits) - 1}")
    values = (options.max_new_tokens, options.temperature, options.top_p, options.seed)
    sampling = Sampling(*values) if any(value is not None for value in values) else None
    return {"revision": options.revision, "sampling": sampling}


async def _ask_one(options: argparse.Namespace) -> int:
    fields = parse_fields(options.fields)
    async with AsyncTaskClient(options.address, timeout_s=options.timeout) as client:
        if not options.stream:
            _show(await client.predict(options.task, fields, **_call_options(options)), options.output)
            return 0
        async for part in client.predict_stream(options.task, fields, **_call_options(options)):
            if isinstance(part, str) and options.output == "text":
                _write(part)
            elif isinstance(part, Prediction):
                _write("\n") if options.output == "text" else _show(part, options.output)
    return 0


async def _ask_file(options: argparse.Namespace) -> int:
    if options.fields:
        raise BadArguments("give fields in the file or on the command line, not both")
    questions = list(read_questions(_lines(options.file), options.file, options.task))
    failed = 0
    async with AsyncTaskClient(options.address, timeout_s=options.timeout) as client:
        async for question, answer in ask_all(client, questions, _call_options(options)):
            if isinstance(answer, Prediction):
                _show(answer, options.output)
                continue
            failed += 1
            _complain(f"{question.place}: {answer}", 1)
            if options.output == "json":
                _write(json.dumps({"task": question.task, "error": str(answer), "reason": answer.reason}) + "\n")
    if failed:
        _complain(f"{failed} of {len(questions)} rows were not answered", 1)
    return 1 if failed else 0


async def _list_tasks(options: argparse.Namespace) -> int:
    async with AsyncTaskClient(options.address, timeout_s=options.timeout) as client:
        for task in await client.tasks():
            if options.output == "json":
                _write(json.dumps(asdict(task), ensure_ascii=False) + "\n")
            else:
                labels = f" → {', '.join(task.labels)}" if task.labels else ""
                _write(f"{task.name}  {task.type}  ({', '.join(task.fields)}){labels}  by {task.served_by}\n")
    return 0


def _lines(name: str) -> list[str]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadArguments(f"{name} cannot be read: {error}") from error
    return text.split("\n")  # splitlines() would cut at U+2028 inside a text


def _show(prediction: Prediction, output: str) -> None:
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


def _complain(error: object, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
