"""What every test shares: one thread per process, no network, and no silent skips where a test must run."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# Set before anything imports torch or a Hugging Face library: they read the environment once, at import.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# With CI=true a skip is a failure, unless its reason begins with one of these: what the machine cannot have.
ALLOWED_SKIPS = ("needs a GPU",)


def _reason(longrepr: Any) -> str:
    """The reason of a skip report, whose ``longrepr`` is (file, line, "Skipped: reason")."""
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") != "true" or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = _reason(report.longrepr)
    if not reason.startswith(ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} must run in CI, and was skipped: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts servers or trains carries the marker, so that ``-m 'not integration'`` leaves it out."""
    tests = Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(tests / folder) for folder in ("integration", "e2e")):
            item.add_marker(pytest.mark.integration)


def _is_of_this_loop(record: logging.LogRecord) -> bool:
    """False for what grpc.aio's poller, one per process, reports about the closed event loop of an earlier test."""
    fault = record.exc_info[1] if record.exc_info else None
    from_the_poller = "PollerCompletionQueue._handle_events" in record.getMessage()
    return not (from_the_poller and isinstance(fault, RuntimeError) and str(fault) == "Event loop is closed")


@pytest.fixture(autouse=True, scope="session")
def records_of_this_loop() -> Generator[None]:
    """Nothing of an earlier test stands among the records of the one that runs."""
    logger = logging.getLogger("asyncio")
    logger.addFilter(_is_of_this_loop)
    yield
    logger.removeFilter(_is_of_this_loop)


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """The grpcurl binary that ``make grpcurl`` built; ``make`` names it in GRPCURL."""
    named = os.environ.get("GRPCURL")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multitask" / "bin"
    candidates = [Path(named)] if named else sorted(cache.glob("grpcurl-*"))
    if not candidates or not candidates[-1].is_file():
        pytest.skip("needs grpcurl: run `make grpcurl`")
    return candidates[-1]
