"""Memory over a long run: every process of a CoLAD training of two tiny networks, early and late.

The run is launched as ``colad train`` does, with evaluations and checkpoints on the way. A
process's memory is what is resident and not shared through the object store, which has its own
line; each figure is the median of several readings, since iterations allocate and free.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Result
from orchestrator.live_view import LiveView, Progress
from orchestrator.quiet import quiet_environment

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "tiny" / "colad_shapes.py"
SMALL = (
    "data.shapes={'train': 32, 'val': 8, 'size': 64}",
    "data.scale=[64, 64]",
    "train.batch_size=4",
    "networks.r18.model.backbone.base_channels=8",
    "networks.r18.model.neck.in_channels=[8, 16, 32, 64]",
    "networks.r34.model.backbone.base_channels=8",
    "networks.r34.model.neck.in_channels=[8, 16, 32, 64]",
    "networks.r34.model.backbone.depth=18",
)
MARGIN = 40
"""Iterations after a mark in which its readings are taken."""
GOAL = 1.03

DAEMONS = ("gcs", "raylet")
"""Ray's own, which grow by some MiB in their first minutes even if nothing runs."""

Memory = dict[str, float]
"""MiB by process, and of the object store."""


@dataclass(frozen=True)
class Marks:
    """Iterations after which memory is read; an evaluation and a checkpoint precede both."""

    early: int
    late: int
    evaluate_every: int


class Watch(LiveView):
    """Takes readings behind the marks; ``idle`` is the process id of an idle Ray's driver."""

    def __init__(self, run_dir: Path, marks: Marks, idle: int) -> None:
        super().__init__(Console(quiet=True), title="long run")
        self.run_dir, self.marks, self.idle = run_dir, marks, idle
        self.readings: dict[int, list[Memory]] = {marks.early: [], marks.late: []}

    def update(self, progress: Progress) -> None:
        """Told some four times a second."""
        for mark, readings in self.readings.items():
            inside = mark < progress.iteration <= mark + MARGIN
            if inside and progress.status == "training":
                readings.append(read_memory(self.run_dir, self.idle))


def read_memory(run_dir: Path, idle: int) -> Memory:
    """MiB of the run's processes and of this process's other descendants: Ray's own, twice."""
    placed = json.loads((run_dir / "processes.json").read_text())
    names = {placed["controller"]["pid"]: "controller", os.getpid(): "launcher"}
    names |= {feeder["pid"]: f"feeder {i}" for i, feeder in enumerate(placed["feeders"])}
    for name, ranks in placed["networks"].items():
        names |= {rank["pid"]: f"network {name}" for rank in ranks}
    memory: Memory = {}
    twin = _descendants(idle)
    for pid in twin:
        found, name = _resident(pid), _program(pid)
        if found is not None and name in DAEMONS:
            memory[f"idle {name}"] = found
    for pid in set(_descendants(os.getpid())) - set(twin):
        found = _resident(pid)
        name = names.get(pid) or _program(pid)
        if found is None or name is None:
            continue
        memory[name] = found
        if name == "raylet":
            memory["object store"] = _store(pid)
    return memory


def _descendants(root: int) -> list[int]:
    """``root`` and all processes below it."""
    children = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        children[int(fields[1])].append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children[pid]
    return found


def _resident(pid: int) -> float | None:
    """MiB resident of a process, without what it shares with the object store."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    values = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    if "RssShmem" not in values:  # ended, and not yet waited for
        return None
    return (int(values["VmRSS"][0]) - int(values["RssShmem"][0])) / 1024


def _store(raylet: int) -> float:
    """MiB of the object store's file that were ever in use."""
    blocks = 0
    for entry in Path(f"/proc/{raylet}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(entry).startswith("/dev/shm/plasma"):
                blocks += entry.stat().st_blocks
    return blocks * 512 / 2**20


def _program(pid: int) -> str | None:
    """Which of Ray's own processes this is; None for one that comes and goes."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return None
    known = {
        "gcs_server": "gcs",
        "raylet/raylet": "raylet",
        "ray::RunMonitor": "notice board",
        "dashboard/agent": "node agent",
        "log_monitor": "log monitor",
    }
    return next((name for part, name in known.items() if part in command), None)


@contextlib.contextmanager
def idle_ray(folder: Path) -> Iterator[int]:
    """A second Ray that does nothing, as old as the run's; gives its driver's process id."""
    code = (
        "import ray, sys\n"
        "ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False,"
        " object_store_memory=100 * 2**20, _temp_dir=sys.argv[1])\n"
        "sys.stdin.read()\n"
        "ray.shutdown()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.communicate()  # closes its input


def train(marks: Marks, folder: Path, idle: int) -> Watch:
    """The run, in a Ray of its own."""
    from orchestrator.config_file import load_config
    from orchestrator.launcher import launch

    config = load_config(
        CONFIG,
        [
            *SMALL,
            f"data.root={folder / 'shapes'}",
            f"train.max_iterations={marks.late + MARGIN + 10}",
            f"evaluation.interval={marks.evaluate_every}",
            "resources.gpus_per_network=0",
        ],
    )
    watch = Watch(folder / "run", marks, idle)
    launch(config, watch.run_dir, resume=False, address=None, view=watch)
    return watch


def run(quick: bool) -> list[Result]:
    """2,000 iterations, read after 200 and at the end; ``quick``: 300, read after 100.

    The launcher is a process of its own: this one holds what other parts have left.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as launcher:
        return launcher.submit(measure, quick).result()


def measure(quick: bool) -> list[Result]:
    """``run``, with this process as launcher."""
    quiet_environment()
    import ray

    marks = Marks(100, 300, 50) if quick else Marks(200, 2000, 100)
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as other,
        idle_ray(Path(other)) as idle,
    ):
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=200 * 2**20,
            _temp_dir=folder,
        )
        try:
            watch = train(marks, Path(folder), idle)
        finally:
            ray.shutdown()
    return _results(watch)


def _results(watch: Watch) -> list[Result]:
    early, late = (watch.readings[mark] for mark in (watch.marks.early, watch.marks.late))
    if not early or not late:
        raise RuntimeError("the run passed a mark between two looks: make MARGIN larger")
    lines = {name: _growth(name, early, late, watch.marks) for name in sorted(early[0])}
    for name in DAEMONS:
        alone = lines.pop(f"idle {name}")
        grown = lines[name]
        lines[f"{name} over idle"] = replace(
            grown,
            name=f"{grown.name}-over-idle",
            ratio=grown.ratio / alone.ratio,
            low=None,
            high=None,
            note=f"growth over that of an idle Ray's in the same time ({alone.ratio:.3f})",
        )
    return list(lines.values())


def _growth(name: str, early: Sequence[Memory], late: Sequence[Memory], marks: Marks) -> Result:
    """How a process has grown."""
    before, after = (
        [reading[name] for reading in readings if name in reading] for readings in (early, late)
    )
    ours, peer = statistics.median(after), statistics.median(before)
    return Result(
        name=f"long-run/{name.replace(' ', '-')}",
        ours=ours,
        peer=peer,
        ratio=ours / peer,
        goal=GOAL,
        better="lower",
        unit="MiB (ratio: of medians)",
        low=min(after) / max(before),
        high=max(after) / min(before),
        note=f"after {marks.late} and after {marks.early} iterations",
    )
