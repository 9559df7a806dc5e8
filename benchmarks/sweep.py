"""What a sweep costs beside its trials: two at once against the same runs one by one.

A sweep of N short trials with concurrency 2 shall take at most 1.15 times the sum
of their solo times / 2. A solo time is that of a sweep of one trial on the same Ray, from the
launch to its end, so both sides start processes, build networks and evaluate alike.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Result
from orchestrator.quiet import quiet_environment
from orchestrator.sweep.plan import SweepOptions, SweepPlan, plan_sweep

GOAL = 1.15
TRIALS = 6
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
    import ray

    rounds, iterations = (1, 60) if quick else (3, 120)
    plan = plan_sweep(
        "dw-search",
        SweepOptions(samples=TRIALS, overrides=SMALL, max_iterations=iterations),
    )
    together, alone = [], []
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _seconds(_only(plan, 0), Path(folder) / "warm", 1)
            for number in range(rounds):
                root = Path(folder) / str(number)
                solo = [_seconds(_only(plan, n), root / f"solo-{n}", 1) for n in range(TRIALS)]
                alone.append(sum(solo) / 2)
                together.append(_seconds(plan, root / "both", 2))
    finally:
        ray.shutdown()
    ratios = [ours / peer for ours, peer in zip(together, alone)]
    return [
        Result(
            name=f"sweep of {TRIALS} trials of {iterations} iterations, two at once",
            ours=statistics.median(together),
            peer=statistics.median(alone),
            ratio=statistics.median(ratios),
            goal=GOAL,
            better="lower",
            unit="s",
            low=min(ratios),
            high=max(ratios),
            note="peer: the trials' solo times / 2",
        )
    ]


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
