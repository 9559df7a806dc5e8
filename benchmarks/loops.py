"""Trainings to be timed: our networks in Ray actors, driven as a run drives them."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

from assigners.types import Step
from orchestrator.actors import (
    ActorFeed,
    ActorNetwork,
    FeederProcess,
    NetworkProcess,
    ShardBatch,
    locate,
)
from orchestrator.calls import Calls
from orchestrator.config import RunConfig
from orchestrator.datasets import PreparedData
from orchestrator.iteration import cotrain_iteration
from orchestrator.step import NetworkSpec

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "tiny" / "colad_shapes.py"
LOOKAHEAD = 2


class Feed:
    """One feeder for ``readers`` loops that run at once, so that together they decode once.

    Each loop asks for every position, in order; a batch is kept until the last of them has it.
    """

    def __init__(self, config: RunConfig, data: PreparedData, readers: int = 1) -> None:
        feeder, calls = ray.remote(FeederProcess).options(num_cpus=0).remote(), Calls()
        feed = ActorFeed([{"": feeder}], config.feed.prefetch, calls)
        feed.build(config, data)
        self.share(feed, calls, readers)

    def share(self, feed: ActorFeed, calls: Calls, readers: int) -> None:
        """Hand on what ``feed`` gives, ``readers`` times each; ``calls`` is the feed's."""
        self.feed, self.calls, self.readers = feed, calls, readers
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[list[ShardBatch], int]] = {}

    def batches(self, position: int) -> list[ShardBatch]:
        """As ``ActorFeed`` gives them."""
        with self._lock:
            if position in self._kept:
                batches, left = self._kept.pop(position)
            else:
                batches, left = self.feed.batches(position), self.readers
            if left > 1:
                self._kept[position] = batches, left - 1
            else:
                self.calls.forget(batch.on("") for batch in batches)
            return batches


class Loop:
    """One training of one or more networks: its actors and its driving loop."""

    def __init__(self, config: RunConfig, data: PreparedData, feed: Feed | None = None) -> None:
        self.config, self.calls = config, Calls()
        self.feed = Feed(config, data) if feed is None else feed
        self.networks = [self._start(name, data) for name in config.networks]
        self.done = 0

    def _start(self, name: str, data: PreparedData) -> ActorNetwork:
        actor = ray.remote(NetworkProcess).options(num_cpus=0).remote()
        spec = NetworkSpec(
            name=name,
            config=self.config,
            data=data,
            iterations_per_epoch=64,
            max_iterations=100_000,
        )
        places = locate(name, [actor], self.calls)
        network = ActorNetwork(spec, [actor], places, self.calls)
        self.calls.wait(network.build())
        return network

    def run(self, iterations: int) -> list[float]:
        """Seconds between the ends of successive iterations."""
        pending: deque[Any] = deque()
        ends = [time.perf_counter()]
        for index in range(iterations):
            step = Step(iteration=self.done + index, max_iterations=100_000)
            batches = self.feed.batches(self.done + index)
            pending.append(cotrain_iteration(batches, self.networks, step))
            if len(pending) == LOOKAHEAD:
                self._collect(pending.popleft(), ends)
        while pending:
            self._collect(pending.popleft(), ends)
        self.done += iterations
        return [after - before for before, after in zip(ends, ends[1:])]

    def _collect(self, record: Any, ends: list[float]) -> None:
        self.calls.wait([handle for handles in record.handles.values() for handle in handles])
        ends.append(time.perf_counter())


class Together:
    """Loops that run at once, each in a thread."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        self.loops = loops
        self.blocks: list[list[list[float]]] = []
        """Seconds of the iterations by call of ``run`` and loop."""

    def run(self, iterations: int) -> list[float]:
        """The iterations' seconds of the slower loop (by median)."""
        with ThreadPoolExecutor(len(self.loops)) as threads:
            runs = [threads.submit(loop.run, iterations) for loop in self.loops]
            self.blocks.append([run.result() for run in runs])
        return max(self.blocks[-1], key=statistics.median)
