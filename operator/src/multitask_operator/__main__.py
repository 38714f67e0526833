"""``python -m multitask_operator`` is ``mtm``."""

from __future__ import annotations

from multitask_operator.cli import main

if __name__ == "__main__":
    main()
