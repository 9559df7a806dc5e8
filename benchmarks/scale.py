"""Many ranks: what orchestration adds to an iteration of two networks that only sleep.

The trainer, its feed and its networks are the real ones; the actors behind them sleep 350 ms per
iteration in two phases, send tables and batches of fixed size, and import no torch. Every rank is
a process, and Ray alone needs some 7 ms of a core per rank and iteration (idle ticks, messages,
store): on a machine of few cores the ranks wait for each other, and the figures are upper bounds.
The note of a line says how busy the cores were; from about 90 % on, it is them that is measured.
"""

from __future__ import annotations

import math
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import Result
from orchestrator.quiet import quiet_environment

PHASES = (0.14, 0.21)
"""Seconds of phase 1 and phase 2."""
NAMES = ("a", "b")
TABLE_BYTES = 20_000
"""Costs of a shard with some 50 GTs."""
BATCH_BYTES = 200_000
SHARDS_PER_FEEDER = 8
"""A real run has one feeder per shard; here idle processes alone would take half a core."""
RANKS = (1, 2, 4, 8, 16, 32, 64)
FEW_RANKS, GOAL_RANKS, GOAL = 8, 32, 0.05
WARM_UP = 4
UNREMARKABLE = 64
"""Processes that may start at once, by the raylet's measure: it warns of four times as many. We
start few at a time ourselves (``Cast.grow``)."""
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "tiny" / "colad_shapes.py"


@dataclass
class Timing:
    """What one number of ranks took."""

    seconds: list[float] = field(default_factory=list)
    """Of every iteration."""
    driver_s: float = 0.0
    """Processor time of the controller's process per iteration."""
    busy: float = 0.0
    """Share of this machine's cores in use meanwhile."""

    @property
    def added_ms(self) -> float:
        """Median beyond the sleep."""
        return 1e3 * (statistics.median(self.seconds) - sum(PHASES))


class Cast:
    """All stand-ins; grows to the number of ranks asked for."""

    def __init__(self) -> None:
        self.networks: dict[str, list[Any]] = {name: [] for name in NAMES}
        self.feeders: list[Any] = []

    def grow(self, ranks: int) -> None:
        """Start what is missing, some at a time: each start takes a second of a core."""
        import ray

        from benchmarks.stand_ins import SleepingFeeder, SleepingNetwork
        from orchestrator.actors import ACTOR_OPTIONS

        network = ray.remote(SleepingNetwork).options(num_cpus=0, **ACTOR_OPTIONS)
        feeder = ray.remote(SleepingFeeder).options(num_cpus=0, **ACTOR_OPTIONS)
        while len(self.feeders) < ranks:
            shared = len(self.feeders) % SHARDS_PER_FEEDER
            self.feeders.append(self.feeders[-1] if shared else feeder.remote(BATCH_BYTES))
            new = [self.feeders[-1].batch.remote(0)]
            for name, actors in self.networks.items():
                actor = network.remote(PHASES, TABLE_BYTES, _result(name, len(actors)))
                actors.append(actor)
                new.append(actor.save.remote())
            ray.get(new)


def _result(network: str, rank: int) -> bytes:
    """A ``StepResult`` as PAA leaves it."""
    from orchestrator.step import StepResult

    parts = ("forward", "wait", "exchange", "assign", "backward", "step")
    return pickle.dumps(
        StepResult(
            network=network,
            rank=rank,
            losses=dict(loss_cls=1.0, loss_bbox=1.0, loss_iou=1.0),
            lr=0.01,
            num_pos=100,
            num_gts=50,
            num_images=16,
            skipped=False,
            taught={name: 0.5 for name in NAMES},
            stats={f"indicator_{name}": 0.5 for name in NAMES},
            seconds=dict.fromkeys(parts, 0.05),
            payload_bytes=TABLE_BYTES,
        )
    )


def measure(cast: Cast, ranks: int, iterations: int, folder: Path) -> Timing:
    """Drive the first ``ranks`` of every network through a ``CoTrainer``."""
    from orchestrator.runlog import RunLog

    timing = Timing()
    stamps: list[tuple[float, float, tuple[float, float]]] = []

    def report(progress: Any) -> bool:
        if progress.status == "training":
            stamps.append((time.perf_counter(), time.process_time(), _processor_seconds()))
        return len(stamps) > WARM_UP + iterations

    run_log = RunLog(folder / f"ranks{ranks}")
    _trainer(cast, ranks, run_log, report).run()
    run_log.close()
    kept = stamps[WARM_UP : WARM_UP + iterations + 1]
    (_, start_cpu, start_used), (_, end_cpu, end_used) = kept[0], kept[-1]
    timing.seconds = [after[0] - before[0] for before, after in zip(kept, kept[1:])]
    timing.driver_s = (end_cpu - start_cpu) / iterations
    used, idle = (after - before for before, after in zip(start_used, end_used))
    timing.busy = used / max(used + idle, 1e-9)
    return timing


def _trainer(cast: Cast, ranks: int, run_log: Any, report: Any) -> Any:
    """A ``CoTrainer`` over stand-ins, which ends when ``report`` says so."""
    from orchestrator.actors import ActorFeed, ActorNetwork
    from orchestrator.calls import Calls
    from orchestrator.config import NetworkConfig
    from orchestrator.config_file import load_config
    from orchestrator.datasets import PreparedData, Split
    from orchestrator.feed import BatchOrder
    from orchestrator.step import NetworkSpec
    from orchestrator.trainer import CoTrainer, Hooks

    base = load_config(CONFIG)
    config = replace(
        base,
        networks={name: NetworkConfig(preset="tiny_r18") for name in NAMES},
        train=replace(base.train, max_iterations=100_000, batch_size=16 * ranks),
        evaluation=replace(base.evaluation, interval=None),
        resources=replace(base.resources, ranks=ranks),
    )
    split = Split(annotations="", images="", num_images=100_000, num_boxes=0)
    data = PreparedData(train=split, val=split, classes=("thing",))
    calls = Calls(base.resources.hang_timeout)
    feeders = [{"": feeder} for feeder in cast.feeders[:ranks]]
    feed = ActorFeed(feeders, config.feed.prefetch, calls)
    networks = [
        ActorNetwork(
            NetworkSpec(
                name=name, config=config, data=data, iterations_per_epoch=100, max_iterations=100
            ),
            actors[:ranks],
            [dict(node_id="")] * ranks,
            calls,
        )
        for name, actors in cast.networks.items()
    ]
    hooks = Hooks(
        resolve=calls.wait,
        save_checkpoint=lambda parts, state: None,
        report=report,
    )
    order = BatchOrder(split.num_images, config.train.batch_size, config.seed)
    return CoTrainer(config, data, order, networks, feed, run_log, hooks)


def _processor_seconds() -> tuple[float, float]:
    """Seconds that this machine's cores have been used and idle."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return 0.0, 0.0
    ticks = [int(value) / os.sysconf("SC_CLK_TCK") for value in fields]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, idle


def run(quick: bool) -> list[Result]:
    """All numbers of ranks; ``quick``: 1, 8 and 32, fewer iterations."""
    quiet_environment()
    import ray

    iterations = 10 if quick else 30
    timings = {}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
            _system_config={"worker_maximum_startup_concurrency": UNREMARKABLE},
        )
        try:
            cast = Cast()
            for ranks in (1, 8, 32) if quick else RANKS:
                cast.grow(ranks)
                timings[ranks] = measure(cast, ranks, iterations, Path(folder))
        finally:
            ray.shutdown()
    return _results(timings)


def _results(timings: dict[int, Timing]) -> list[Result]:
    whole = sum(PHASES)
    results = [
        Result(
            name=f"scale/{ranks}-ranks",
            ours=timing.added_ms,
            peer=None,
            ratio=timing.added_ms / 1e3 / whole,
            goal=GOAL if ranks == GOAL_RANKS else None,
            better="lower",
            unit="ms added (ratio: share of the sleep)",
            low=min(timing.seconds) / whole - 1,
            high=max(timing.seconds) / whole - 1,
            note=f"controller {1e3 * timing.driver_s:.1f} ms of a core per iteration; "
            f"cores {timing.busy:.0%} busy",
        )
        for ranks, timing in timings.items()
    ]
    added = {ranks: timing.added_ms for ranks, timing in timings.items()}
    driver = {ranks: 1e3 * timing.driver_s for ranks, timing in timings.items()}
    results.append(_growth("added", added, GOAL_RANKS, "ms added"))
    results.append(_growth("controller", driver, max(timings), "ms of a core"))
    return results


def _growth(what: str, by_ranks: Mapping[int, float], many: int, unit: str) -> Result:
    """Exponent of the growth from ``FEW_RANKS`` to ``many``, and step by step in the note."""
    large, small = by_ranks[many], by_ranks[FEW_RANKS]
    ranks = sorted(by_ranks)
    steps = (
        f"{a} to {b} {_exponent(by_ranks[a], by_ranks[b], b / a):.2f}"
        for a, b in zip(ranks, ranks[1:])
    )
    return Result(
        name=f"scale/growth/{what}",
        ours=large,
        peer=small,
        ratio=max(0.0, _exponent(small, large, many / FEW_RANKS)),
        goal=1.0,
        better="lower",
        unit=f"{unit} (ratio: exponent)",
        note=f"exponent between {FEW_RANKS} and {many} ranks: 1 is linear; {', '.join(steps)}",
    )


def _exponent(small: float, large: float, factor: float) -> float:
    """Of a growth from ``small`` to ``large`` ms; less than 0.1 ms is not told apart."""
    return math.log(max(large, 0.1) / max(small, 0.1), factor)
