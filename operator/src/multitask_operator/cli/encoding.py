"""Output on terminals, files and pipes that cannot show every character."""

from __future__ import annotations

import io
import os
import sys


def replace_unencodable_characters() -> None:
    """Print ``?`` for a character that the encoding of standard output or standard error does not have.

    Without it the first label in another script would end a run that has finished. The programs that this process
    starts do the same: they read PYTHONIOENCODING.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    os.environ["PYTHONIOENCODING"] = f"{encoding}:{errors or 'replace'}"
