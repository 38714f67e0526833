"""``mtm`` where standard output cannot show every character."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from multitask_operator.report.build import build_report
from support.graph_builders import all_done, graph_of
from unit.operator.test_workdir import DESK, filled

MTM = ["-c", "from multitask_operator.cli import main; main()"]
PLUGIN = ["-c", "from multitask_operator.cli import kubectl_plugin; kubectl_plugin()"]

PROGRAMS = [
    ("the report of a run", [*MTM, "report", "{work}"], 0),
    ("the plugin of kubectl", [*PLUGIN, "report", "{work}"], 0),
    ("an error", [*MTM, "run", "écran.yaml"], 2),
    ("an error of a program that mtm starts", [*MTM, "predict", "--address", "é", "x"], 2),
    ("an error of predict", ["-m", "multitask_serving.predict", "--address", "é", "x"], 2),
    ("an error of serve", ["-m", "multitask_serving.serve", "écran"], 2),
]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
@pytest.mark.parametrize(("sentence", "argv", "status"), PROGRAMS, ids=[row[0] for row in PROGRAMS])
def test_a_character_never_ends_a_program(tmp_path, sentence, argv, status, encoding):
    filled(tmp_path)
    report = build_report(DESK, graph_of(DESK, all_done(DESK)), {})
    report = report.model_copy(update={"warnings": ("the labels भाषा and 日本 look alike",)})
    (tmp_path / "report.json").write_text(report.model_dump_json(by_alias=True), "utf-8")
    done = subprocess.run(
        [sys.executable, *(word.replace("{work}", str(tmp_path)) for word in argv)],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (status, False), done.stderr.decode(errors="replace")
    if status == 0:
        assert "warning: the labels ???? and ?? look alike" in done.stdout.decode(encoding.partition(":")[0])
