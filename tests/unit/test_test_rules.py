"""The rules of the test run itself: in CI a skipped test fails, unless the machine cannot have what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

SKIP = "def test_it(): pytest.skip('{}')"
MARK = "@pytest.mark.skip(reason='{}')\ndef test_it(): pass"
MODULE = "pytest.skip('{}', allow_module_level=True)"
XFAIL = "@pytest.mark.xfail(reason='{}')\ndef test_it(): assert False"
PASS = "def test_it(): pass"

# name, test file, the skip's reason, what it becomes in CI, what it is elsewhere
CASES = [
    ("a_skip", SKIP, "needs grpcurl", "FAILED", "SKIPPED"),
    ("a_skip_for_want_of_a_gpu", SKIP, "needs a GPU with bf16", "SKIPPED", "SKIPPED"),
    ("a_skip_for_want_of_kubernetes", SKIP, "needs Kubernetes: run `make kubernetes`", "FAILED", "SKIPPED"),
    ("a_skip_mark", MARK, "not now", "ERROR", "SKIPPED"),
    ("a_skipped_module", MODULE, "could not import triton", "ERROR", "SKIPPED"),
    ("a_skipped_module_for_want_of_a_gpu", MODULE, "needs a GPU", "SKIPPED", "SKIPPED"),
    ("an_expected_failure", XFAIL, "known", "XFAIL", "XFAIL"),
    ("a_pass", PASS, "", "PASSED", "PASSED"),
]


def outcomes(folder: Path, ci: bool) -> dict[str, str]:
    """What pytest says of each of the ``CASES``, run beside this project's conftest."""
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    for name, body, reason, _, _ in CASES:
        (folder / f"test_{name}.py").write_text(f"import pytest\n{body.format(reason)}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI"))}
    options = ["-rA", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--rootdir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        env=environment | {"CI": str(ci).lower()},
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    reported = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b.*?test_(\w+)\.py", done.stdout, re.MULTILINE)
    return {name: outcome for outcome, name in reported}


def test_in_ci_a_skip_fails_unless_its_reason_is_allowed(tmp_path: Path) -> None:
    assert outcomes(tmp_path, ci=True) == {name: in_ci for name, _, _, in_ci, _ in CASES}


def test_elsewhere_a_skip_is_a_skip(tmp_path: Path) -> None:
    assert outcomes(tmp_path, ci=False) == {name: elsewhere for name, _, _, _, elsewhere in CASES}
