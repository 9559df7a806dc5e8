"""What co-training costs over training alone: two equal tiny networks, one thread each.

    python benchmarks/orchestration.py [--iterations 120] [--block 10]

Compares, in alternating blocks on the same machine, the iteration time of

    colad   two learners that exchange costs every iteration (one run, one feeder),
    apart   the same two networks as two independent solo trainings at once, each with its own
            feeder and its own driving loop,
    shared  the same two as solo learners of one run: one feeder, no exchange.

Prints medians, their spread over blocks and the ratios colad/apart and colad/shared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.quiet import quiet_environment

quiet_environment()

import ray  # noqa: E402

from assigners.types import Step  # noqa: E402
from orchestrator.actors import (  # noqa: E402
    ActorFeed,
    ActorNetwork,
    FeederProcess,
    NetworkProcess,
    get_all,
    locate,
)
from orchestrator.config import NetworkConfig, RunConfig, SwitchConfig, load_config  # noqa: E402
from orchestrator.datasets import PreparedData, prepare_data  # noqa: E402
from orchestrator.iteration import cotrain_iteration  # noqa: E402
from orchestrator.step import NetworkSpec  # noqa: E402

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "tiny" / "colad_shapes.py"
LOOKAHEAD = 2
WARM_UP = 5


class Loop:
    """One training of one or more networks: its actors and its driving loop."""

    def __init__(self, config: RunConfig, data: PreparedData) -> None:
        self.config = config
        feeder = ray.remote(FeederProcess).options(num_cpus=0).remote()
        get_all([feeder.build.remote(config, data, 0)], {})
        self.feed = ActorFeed([{"": feeder}], config.feed.prefetch)
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
        network = ActorNetwork(spec, [actor], locate(name, [actor]))
        get_all(network.build(), {})
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

    @staticmethod
    def _collect(record: Any, ends: list[float]) -> None:
        get_all([handle for handles in record.handles.values() for handle in handles], {})
        ends.append(time.perf_counter())


def run_together(loops: Sequence[Loop], iterations: int) -> list[float]:
    """All loops at once, each in a thread; the seconds of all their iterations."""
    seconds: list[list[float]] = [[] for _ in loops]

    def drive(index: int) -> None:
        seconds[index] = loops[index].run(iterations)

    threads = [threading.Thread(target=drive, args=(i,)) for i in range(len(loops))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [value for own in seconds for value in own]


def make_loops(root: Path) -> dict[str, list[Loop]]:
    base = load_config(CONFIG, [f"data.root={root / 'shapes'}"])
    data = prepare_data(base.data, root)
    equal = NetworkConfig(preset="tiny_r18")
    base = replace(base, networks={"a": equal, "b": equal})
    solo = replace(base, switch=SwitchConfig(criterion="self"))
    singles = [replace(solo, networks={name: equal}) for name in ("a", "b")]
    return {
        "colad": [Loop(base, data)],
        "apart": [Loop(single, data) for single in singles],
        "shared": [Loop(solo, data)],
    }


def measure(loops: dict[str, list[Loop]], iterations: int, block: int) -> dict[str, list[float]]:
    """Median seconds of every block, the kinds taking turns."""
    for kind in loops.values():
        run_together(kind, WARM_UP)
    medians: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(-(-iterations // block)):
        for name, kind in loops.items():
            medians[name].append(statistics.median(run_together(kind, block)))
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--block", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        loops = make_loops(Path(folder))
        medians = measure(loops, arguments.iterations, arguments.block)
        ray.shutdown()
    print(f"{'':8}{'median ms':>11}{'min':>8}{'max':>8}   over blocks of {arguments.block}")
    for name, values in medians.items():
        ms = [1e3 * value for value in values]
        print(f"{name:8}{statistics.median(ms):11.1f}{min(ms):8.1f}{max(ms):8.1f}")
    for other in ("apart", "shared"):
        ratios = [a / b for a, b in zip(medians["colad"], medians[other])]
        print(
            f"colad/{other}: {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
