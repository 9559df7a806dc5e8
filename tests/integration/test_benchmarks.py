"""One round of the benchmarks that need actors, so that they do not rot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import exchange, feed, scale
from tests.support.runs import CONFIG

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_the_exchange_has_a_line_of_costs_and_one_of_soft_labels(ray_session: Any) -> None:
    actor = ray_session.remote(exchange.Side).options(num_cpus=0)
    sides = {name: actor.remote(name, 1) for name in exchange.NAMES}
    lines = exchange._method(sides, "PAA", exchange.SIZES[0], rounds=1)
    kinds = ("", "with-decision/", "decision-fisher/", "soft-labels/")
    assert [line.name for line in lines] == [f"exchange/{kind}tiny/PAA" for kind in kinds]
    costs, decided, fisher, _ = lines
    assert "of 110 ms" in costs.note
    assert decided.ours > costs.ours and decided.peer == costs.peer
    assert fisher.peer is not None and fisher.ratio == fisher.ours > fisher.peer
    assert all(line.ours > 0 for line in lines)


def test_sleeping_ranks_go_through_the_trainer(ray_session: Any, tmp_path: Path) -> None:
    cast = scale.Cast()
    cast.grow(2)
    timing = scale.measure(cast, 2, 2, tmp_path)
    assert len(timing.seconds) == 2
    assert min(timing.seconds) > 0.9 * sum(scale.PHASES)


def test_loops_on_one_feed_are_timed(
    ray_session: Any, small_overrides: Sequence[str], tmp_path: Path
) -> None:
    from benchmarks.loops import Feed, Loop, Together
    from orchestrator.config import SwitchConfig
    from orchestrator.config_file import load_config
    from orchestrator.datasets import prepare_data

    config = load_config(CONFIG, small_overrides)
    data = prepare_data(config.data, tmp_path)
    networks, switch = {"r18": config.networks["r18"]}, SwitchConfig(criterion="self")
    solo = replace(config, networks=networks, switch=switch)
    shared = Feed(solo, data, readers=2)
    together = Together([Loop(solo, data, shared) for _ in range(2)])
    start = time.perf_counter()
    seconds = together.run(3)
    assert seconds in together.blocks[0]
    assert [len(loop) for loop in together.blocks[0]] == [3, 3]
    assert 0 < sum(seconds) <= time.perf_counter() - start
    assert not shared._kept


def test_feeds_are_timed_in_turns(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in dict(IMAGES=8, SIDE=64, SCALE=64, BATCH=4, DECODED_AHEAD=1).items():
        monkeypatch.setattr(feed, name, value)
    pair = feed._measure(tmp_path, blocks=1, batches=2)
    assert len(pair.ours) == len(pair.peer) == 1
    assert min(pair.ours + pair.peer) > 0
