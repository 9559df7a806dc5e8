"""What every benchmark shares: interleaved pairs, peak memory, results on disk.

A figure is a ratio of two things measured in turns in one process, because the speed of a shared
machine drifts by more than most differences of interest.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "torch",
    "ray",
    "numpy",
    "scikit-learn",
    "mmdet",
    "mmengine",
    "mmcv",
    "onedl-mmdetection",
    "onedl-mmcv",
    "onedl-mmengine",
    "pycocotools",
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table."""

    name: str
    ours: float
    peer: float | None
    """None where the goal is about our own figure."""
    ratio: float
    """What the goal is about: peer / ours for a speed-up, ours / peer for a cost, or ours."""
    goal: float | None
    better: str
    """``"higher"`` or ``"lower"``: which ratios are good."""
    unit: str
    """Unit of ``ours`` and ``peer``, and what ``ratio`` is if not that of the two."""
    low: float | None = None
    """Smallest and largest ratio over the rounds."""
    high: float | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal holds; None without a goal."""
        if self.goal is None:
            return None
        return self.ratio >= self.goal if self.better == "higher" else self.ratio <= self.goal


@dataclass(kw_only=True)
class Pair:
    """Seconds of two things measured in turns."""

    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    def result(
        self,
        name: str,
        *,
        goal: float | None,
        better: str = "higher",
        note: str = "",
    ) -> Result:
        """Medians in ms and the median of the rounds' ratios: peer / ours, or ours / peer."""
        over = [(p / o if better == "higher" else o / p) for o, p in zip(self.ours, self.peer)]
        return Result(
            name=name,
            ours=1e3 * statistics.median(self.ours),
            peer=1e3 * statistics.median(self.peer),
            ratio=statistics.median(over),
            goal=goal,
            better=better,
            unit="ms (ratio: median of the rounds')",
            low=min(over),
            high=max(over),
            note=note,
        )


def interleave(
    ours: Callable[[], Any], peer: Callable[[], Any], *, rounds: int, repeat: int = 1
) -> Pair:
    """Time both ``rounds`` times in turns, after one warm-up of each.

    Args:
        repeat: calls per round; a round's time is their mean.
    """
    pair = Pair()
    ours(), peer()
    for _ in range(rounds):
        for call, seconds in ((ours, pair.ours), (peer, pair.peer)):
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            seconds.append((time.perf_counter() - start) / repeat)
    return pair


def peak_bytes(call: Callable[[], Any]) -> int:
    """Largest amount of tensor memory that ``call`` holds at once, on the CPU."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        kept = call()
    del kept
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def machine() -> dict[str, Any]:
    """Versions, processor, cores and load: what a figure depends on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "versions": versions,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": [round(value, 2) for value in os.getloadavg()],
        "time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def print_table(results: Sequence[Result]) -> None:
    """The table for people."""
    width = max((len(result.name) for result in results), default=4)
    print(f"{'name':{width}}  {'ours':>10} {'peer':>10} {'ratio':>8}  {'spread':>15}  goal")
    for result in results:
        peer = "-" if result.peer is None else f"{result.peer:.2f}"
        spread = "" if result.low is None else f"{result.low:.2f} to {result.high:.2f}"
        print(
            f"{result.name:{width}}  {result.ours:>10.2f} {peer:>10} {result.ratio:>8.3f}  "
            f"{spread:>15}  {_goal(result)}  {result.unit}  {result.note}".rstrip()
        )


def _goal(result: Result) -> str:
    if result.goal is None:
        return "-"
    sign = ">=" if result.better == "higher" else "<="
    return f"{sign} {result.goal:g} {'reached' if result.reached else 'MISSED'}"


def save(results: Sequence[Result], before: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write the run with its machine, and ``latest.json``: the newest line of every name.

    A line of the latter says which run it is from (``run``: the stem of that run's file).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(result) for result in results]
    stamp = before["time"].replace(" ", "_").replace(":", "")
    path = folder / f"{stamp}.json"
    path.write_text(json.dumps({"machine": before, "results": rows}, indent=1) + "\n")
    latest = folder / "latest.json"
    known = {row["name"]: row for row in json.loads(latest.read_text())} if latest.exists() else {}
    known.update({row["name"]: {**row, "run": path.stem} for row in rows})
    latest.write_text(json.dumps(list(known.values()), indent=1) + "\n")
    return path
