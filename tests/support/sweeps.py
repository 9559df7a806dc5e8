"""Small spaces for tests of sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import orchestrator.sweep.figures
import orchestrator.sweep.plan
import orchestrator.sweep.results
from tune_spaces.space import Row, SearchSpace, Space


def add_space(monkeypatch: pytest.MonkeyPatch, rows: tuple[Row, ...], base: str = "dw") -> Space:
    """The only space there is, ``test``."""
    space = Space(id="test", paper="dw", title="a test", base=base, fields={}, rows=rows)
    _install(monkeypatch, {"test": space}, {})
    return space


def add_search(
    monkeypatch: pytest.MonkeyPatch, domains: Mapping[str, Any], base: str = "dw"
) -> SearchSpace:
    """The only search space there is, ``search``."""
    space = SearchSpace(id="search", title="a test", base=base, domains=domains)
    _install(monkeypatch, {}, {"search": space})
    return space


def _install(monkeypatch: pytest.MonkeyPatch, spaces: Any, searches: Any) -> None:
    for module in (
        orchestrator.sweep.plan,
        orchestrator.sweep.results,
        orchestrator.sweep.figures,
    ):
        monkeypatch.setattr(module, "SPACES", spaces)
        if hasattr(module, "SEARCH_SPACES"):
            monkeypatch.setattr(module, "SEARCH_SPACES", searches)
