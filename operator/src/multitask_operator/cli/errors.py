"""Errors of a command as users see them: one message on standard error, and an exit status."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable

import click

from multitask_operator.commands import BAD_INPUT, FAILED, INTERRUPTED


def run_reporting_errors(command: Callable[[], int]) -> int:
    """Run a command; its errors become one message and an exit status, never a traceback."""
    from multitask_api.errors import MultitaskError, UserError

    try:
        return command()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error))
        return BAD_INPUT
    except click.UsageError as error:
        hint = f"`{error.ctx.command_path} --help` shows how" if error.ctx else "`mtm --help` shows how"
        return _print_error(error.format_message().rstrip("."), hint, BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return _print_error("interrupted", "run the same command again to continue", INTERRUPTED)
    except MultitaskError as error:
        return _print_error(str(error), None, BAD_INPUT if isinstance(error, UserError) else FAILED)
    except BrokenPipeError:
        return FAILED
    except OSError as error:  # a full disk, a folder that cannot be written
        path = f"{error.filename}: " if error.filename else ""
        return _print_error(
            f"{path}{error.strerror or error}", "check the path, its permissions and the free disk space", FAILED
        )
    except Exception as error:  # noqa: BLE001 - the outermost handler: users get a message, the details go to a file
        return _print_error(
            f"{type(error).__name__}: {error}", f"this is a bug of mtm; the traceback is in {_keep_traceback()}", FAILED
        )


def _print_error(message: str, hint: str | None, status: int) -> int:
    lines = message.splitlines() or [""]
    text = f"error: {lines[0]}" if len(lines) == 1 else "\n".join([f"error: {len(lines)} problems", *lines])
    click.echo(text + (f"; {hint}" if hint else ""), err=True)
    return status


def _keep_traceback() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="mtm-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return file.name
