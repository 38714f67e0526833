"""The ``mtm`` command line: options and errors. What each command does is in ``commands``, imported when needed."""

from __future__ import annotations

from multitask_operator.cli.main import invoke, kubectl_plugin, main

__all__ = ["invoke", "kubectl_plugin", "main"]
