"""The rows of the fault matrix on their way from the tests, of any process, into the table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from tests.faults.table import Row, write

_PROPERTY = "rows of the fault matrix"
_rows: list[Row] = []


@pytest.fixture
def rows(record_property: Callable[[str, Any], None]) -> Iterator[list[Row]]:
    """What a test appends is in the table once the test has ended."""
    collected: list[Row] = []
    yield collected
    record_property(_PROPERTY, [asdict(row) for row in collected])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the table anew after every test, in the process that hears of all of them."""
    if report.when != "teardown" or "PYTEST_XDIST_WORKER" in os.environ:
        return
    for name, value in report.user_properties:
        if name == _PROPERTY:
            _rows.extend(Row(**fields) for fields in value)
            write(_rows)
