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
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when run as a script

from orchestrator.quiet import quiet_environment  # noqa: E402

quiet_environment()

import ray  # noqa: E402

from benchmarks.loops import Loop, make_loops, run_together  # noqa: E402

WARM_UP = 5


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
