"""How the sources are laid out: short modules, few modules in a package, no import of test code.

Limits: 300 lines in a module. 10 modules in the root package of a distribution, 15 in every package below it and in the
folders of ``tools/``; ``__init__``, ``__main__`` and generated modules do not count.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
DISTRIBUTIONS = ("crds", "client", "kubernetes-client", "serving", "trainer-image", "operator")
SOURCES = [ROOT / name / "src" for name in DISTRIBUTIONS]
GENERATED = ("_pb2.py", "_pb2_grpc.py")
MOST_LINES = 300
MOST_IN_ROOT, MOST_IN_PACKAGE = 10, 15
#: Top-level names of tests/ and tools/, which pytest puts on the path, and what only tests need.
TEST_CODE = {"devcluster", "e2e", "hypothesis", "moto", "pytest", "support", "tests", "tools"}


def modules(folder: Path) -> list[Path]:
    """The written modules below a folder."""
    return [path for path in sorted(folder.rglob("*.py")) if not path.name.endswith(GENERATED)]


def packages() -> list[Path]:
    return sorted({path.parent for source in [*SOURCES, TOOLS] for path in modules(source)})


def production() -> list[Path]:
    return [path for source in SOURCES for path in modules(source)]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*production(), *modules(TOOLS)], ids=named)
def test_no_module_is_long(path: Path):
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MOST_LINES, f"{named(path)} has {lines} lines; split it"


@pytest.mark.parametrize("package", packages(), ids=named)
def test_no_package_is_crowded(package: Path):
    loose = [path.stem for path in package.glob("*.py") if not path.stem.startswith("__")]
    loose = [name for name in loose if not f"{name}.py".endswith(GENERATED)]
    most = MOST_IN_ROOT if package.parent in SOURCES else MOST_IN_PACKAGE
    assert len(loose) <= most, f"{named(package)} has {len(loose)} modules; group them in packages: {sorted(loose)}"


@pytest.mark.parametrize("source", SOURCES, ids=named)
def test_production_code_imports_no_test_code(source: Path):
    wrong = {f"{named(path)}: {name}" for path in modules(source) for name in _imports(path) if name in TEST_CODE}
    assert not wrong


def test_exceptions_of_import_rules_must_match_an_import():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    for contract in settings["contracts"]:
        assert contract.get("unmatched_ignore_imports_alerting", "error") == "error", contract["name"]


def _imports(path: Path) -> set[str]:
    """The top-level names of all that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names
