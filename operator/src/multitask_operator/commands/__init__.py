"""What each command of ``mtm`` does, a module each; ``cluster`` has those that read a cluster. ``cli`` calls them."""

from __future__ import annotations

#: The exit statuses of all commands.
OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
