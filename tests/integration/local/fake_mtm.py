"""``mtm run FILE --workdir DIR [--no-serve]`` with ``fake_stage.py`` as every stage program; the rest is real."""

from __future__ import annotations

import sys
from pathlib import Path

from multitask_operator.cli.errors import run_reporting_errors
from multitask_operator.commands import run
from multitask_operator.local import processes

HERE = Path(__file__).parent


class FakeStages:
    def start(self, kind, order, log, environment):
        return processes.start([sys.executable, str(HERE / "fake_stage.py"), "--order", str(order)], log, environment)


if __name__ == "__main__":
    file, _, workdir, *options = sys.argv[1:]
    serve = options != ["--no-serve"]
    sys.exit(
        run_reporting_errors(
            lambda: run.run(Path(file), Path(workdir), serve=serve, as_json=False, launcher=FakeStages())
        )
    )
