"""``mtm run FILE --workdir DIR [--no-serve]`` with fakes as stage programs; of a study.yaml, ``mtm study``."""

from __future__ import annotations

import sys
from pathlib import Path

from multitask_operator.cli.errors import run_reporting_errors
from multitask_operator.commands import run
from multitask_operator.commands.study import run as study
from multitask_operator.local import processes

HERE = Path(__file__).parent


class FakeStages:
    def start(self, kind, orders, log, environment):
        options = processes.order_options(orders)
        return processes.start([sys.executable, str(HERE / "fake_stage.py"), *options], log, environment)


if __name__ == "__main__":
    file, _, workdir, *options = sys.argv[1:]
    path, folder, serve = Path(file), Path(workdir), options != ["--no-serve"]

    def command() -> int:
        if path.name == "study.yaml":
            given = ["--workdir", workdir]
            return study.study(path, folder, as_json=False, options=given, launcher=FakeStages())
        return run.run(path, folder, serve=serve, as_json=False, launcher=FakeStages())

    sys.exit(run_reporting_errors(command))
