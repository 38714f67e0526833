"""The helm that renders the chart."""

from __future__ import annotations

import pytest

from devcluster import chart


@pytest.fixture(scope="session", autouse=True)
def helm() -> str:
    program = chart.helm()
    if program is None:
        pytest.skip("needs helm: `make kubernetes` builds it")
    return program
