"""One round of the benchmarks that need actors, so that they do not rot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import exchange, scale
from tests.support.runs import CONFIG

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_the_exchange_has_a_line_of_costs_and_one_of_soft_labels(ray_session: Any) -> None:
    actor = ray_session.remote(exchange.Side).options(num_cpus=0)
    sides = {name: actor.remote(name, 1) for name in exchange.NAMES}
    lines = exchange._method(sides, "PAA", exchange.SIZES[0], rounds=1)
    assert [line.name for line in lines] == ["exchange/tiny/PAA", "exchange/soft-labels/tiny/PAA"]
    assert "of 110 ms" in lines[0].note
    assert all(line.ours > 0 for line in lines)


def test_sleeping_ranks_go_through_the_trainer(ray_session: Any, tmp_path: Path) -> None:
    cast = scale.Cast()
    cast.grow(2)
    timing = scale.measure(cast, 2, 2, tmp_path)
    assert len(timing.seconds) == 2
    assert min(timing.seconds) > 0.9 * sum(scale.PHASES)


def test_a_loop_is_timed(ray_session: Any, small_overrides: Sequence[str], tmp_path: Path) -> None:
    from benchmarks.loops import Loop
    from orchestrator.config import load_config
    from orchestrator.datasets import prepare_data

    config = load_config(CONFIG, small_overrides)
    loop = Loop(config, prepare_data(config.data, tmp_path))
    start = time.perf_counter()
    seconds = loop.run(2)
    assert len(seconds) == 2
    assert 0 < sum(seconds) <= time.perf_counter() - start
