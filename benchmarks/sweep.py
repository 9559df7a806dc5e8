"""What a sweep costs beside its trials: two at once against the same runs one by one.

A sweep of N short trials with concurrency 2 shall take at most 1.15 times the sum of their solo
times / 2. A solo time is that of a sweep of one trial, from the launch to its end, so both sides
start processes, build networks and evaluate alike. A trial is several processes, and alone it
uses more than half of a small machine; the second line therefore gives each solo run half of the
cores, which is what a trial of the sweep has, and leaves what the sweep itself adds.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Result
from orchestrator.quiet import quiet_environment
from orchestrator.sweep.plan import SweepOptions, SweepPlan, plan_sweep

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "tiny" / "dw_shapes.py"
GOAL = 1.15
TRIALS = 4
SMALL = (
    "data.shapes={'train': 32, 'val': 8, 'size': 64}",
    "data.scale=[64, 64]",
    "train.batch_size=4",
    "evaluation.interval=None",
    "networks.r18.model.backbone.base_channels=8",
    "networks.r18.model.neck.in_channels=[8, 16, 32, 64]",
)


def run(quick: bool) -> list[Result]:
    """The table of this part."""
    quiet_environment()
    rounds, iterations = (1, 60) if quick else (3, 120)
    cores = sorted(os.sched_getaffinity(0))
    half = cores[: max(1, len(cores) // 2)]
    together, whole, halved = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            root = Path(folder) / str(number)
            plan = plan_sweep(
                "dw-search",
                SweepOptions(
                    config=CONFIG,
                    samples=TRIALS,
                    overrides=[*SMALL, f"data.root={folder}/shapes"],
                    max_iterations=iterations,
                ),
            )
            with _ray(cores):
                if number == 0:
                    _seconds(_only(plan, 0), root / "warm", 1)
                whole.append(_solo(plan, root / "whole"))
                together.append(_seconds(plan, root / "both", 2))
            with _ray(half):
                halved.append(_solo(plan, root / "half"))
    name = f"sweep of {TRIALS} trials of {iterations} iterations, two at once"
    return [
        _result(name, together, whole, f"peer: solo times / 2, {len(cores)} cores each"),
        _result(f"{name}, by core", together, halved, f"solo: {len(half)} core(s) each"),
    ]


def _result(name: str, together: list[float], alone: list[float], note: str) -> Result:
    ratios = [ours / peer for ours, peer in zip(together, alone)]
    return Result(
        name=name,
        ours=statistics.median(together),
        peer=statistics.median(alone),
        ratio=statistics.median(ratios),
        goal=GOAL,
        better="lower",
        unit="s (ratio: median of the rounds')",
        low=min(ratios),
        high=max(ratios),
        note=note,
    )


@contextmanager
def _ray(cores: Collection[int]) -> Iterator[None]:
    """A Ray whose processes stay on ``cores``; it schedules as on the whole machine."""
    import ray

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        ray.init(
            address="local",
            num_cpus=max(2, len(before)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
    finally:
        ray.shutdown()
        os.sched_setaffinity(0, before)


def _solo(plan: SweepPlan, root: Path) -> float:
    """Half the sum of the trials' times, one after the other."""
    seconds = [_seconds(_only(plan, n), root / str(n), 1) for n in range(len(plan.trials))]
    return sum(seconds) / 2


def _only(plan: SweepPlan, number: int) -> SweepPlan:
    return dataclasses.replace(plan, trials=plan.trials[number : number + 1])


def _seconds(plan: SweepPlan, sweep_dir: Path, concurrency: int) -> float:
    """Wall clock of a sweep on the Ray that is there."""
    from orchestrator.sweep.launch import launch_sweep

    start = time.perf_counter()
    result = launch_sweep(
        plan,
        sweep_dir,
        resume=False,
        address=None,
        scheduler="none",
        concurrency=concurrency,
        say=lambda line: None,
    )
    seconds = time.perf_counter() - start
    if set(result.outcomes.values()) != {"finished"}:
        raise RuntimeError(f"not every trial finished: {result.outcomes}")
    return seconds
