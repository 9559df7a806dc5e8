"""Runs to be disturbed: started as a user starts them, watched from outside."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.runs import CONFIG, ROOT, SMALL, processes

MOMENTS = int(os.environ.get("MOMENTS", "1"))
"""How often each fault strikes."""
STRIKES = 2 * MOMENTS
"""Faults that strike one run, one after the other, at most."""
ITERATIONS = 20 + 15 * (STRIKES - 1)
INTERVAL = 2
OVERRIDES = (
    *SMALL,
    f"train.max_iterations={ITERATIONS}",
    f"checkpoint.interval={INTERVAL}",
    "checkpoint.keep=20",
    "resources.gpus_per_network=0",
)
END_S = 240.0
"""Every run must end within this time, whatever happens to it."""
GONE_S = 90.0
"""So long after the end, no process of a run may be left. Of a killed Ray, its agents look for the
control store for 60 s before they end."""


class Family:
    """All processes that descend from one, also those whose parents have died meanwhile."""

    def __init__(self, root: int) -> None:
        self._root, self._known = root, {root: _started(root)}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._done.wait(0.2 if _started(self._root) else 2.0):
            self.look()

    def look(self) -> None:
        """Add the children of known processes."""
        parents = _parents()
        grown = True
        while grown:
            new = [pid for pid, ppid in parents.items() if ppid in self._known]
            new = [pid for pid in new if pid not in self._known]
            grown = bool(new)
            self._known.update({pid: _started(pid) for pid in new})

    def alive(self) -> dict[int, str]:
        """Those that still run, with the beginnings of their command lines."""
        return {
            pid: _command(pid)
            for pid, started in list(self._known.items())
            if started and _started(pid) == started
        }

    def orphans(self, within_s: float = GONE_S) -> dict[int, str]:
        """Those that are left after some time."""
        self._done.set()
        self._thread.join()
        until = time.monotonic() + within_s
        while (left := self.alive()) and time.monotonic() < until:
            time.sleep(0.2)
        return left


def _parents() -> dict[int, int]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                found[int(entry)] = int(fields[1])
    return found


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the state on; empty where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _started(pid: int) -> str:
    """When a process began, in ticks; empty if it is gone, or dead and not yet waited for."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:120]
    except OSError:
        return ""


@dataclass
class Launched:
    """A command that trains, its output with times, and its processes."""

    process: subprocess.Popen[str]
    run_dir: Path
    lines: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.family = Family(self.process.pid)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip("\n")))

    def end(self) -> int:
        """Exit code; an error if the run does not end in time."""
        code = self.process.wait(END_S)
        self.reader.join(5)
        return code

    @property
    def text(self) -> str:
        """Everything printed, on one line: what is said may have been broken into lines."""
        return " ".join(" ".join(line for _, line in self.lines).split())

    def time_of(self, words: str, after: float = 0.0) -> float | None:
        """When a line with ``words`` came first after a time."""
        return next((t for t, line in list(self.lines) if t > after and words in line), None)


def environment() -> dict[str, str]:
    """Of a user without a cluster."""
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}


@contextmanager
def launched(command: Sequence[str], run_dir: Path) -> Iterator[Launched]:
    """A command under watch; killed at the end of the block if it still runs."""
    process = subprocess.Popen(
        list(command),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run = Launched(process, run_dir)
    try:
        yield run
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
        for pid in run.family.orphans(10):
            os.kill(pid, signal.SIGKILL)
        run.reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


def train_command(data_root: Path, run_dir: Path, *more: str, resume: bool = False) -> list[str]:
    """``colad train`` of the tiny run."""
    flags = ["--resume"] if resume else []
    return [
        *(sys.executable, "-m", "orchestrator.cli", "train", str(CONFIG)),
        *("--work-dir", str(run_dir), *flags, "--set", f"data.root={data_root}"),
        *(*OVERRIDES, *more),
    ]


def saved(run_dir: Path) -> list[int]:
    """Iterations of the checkpoints on the disk."""
    states = (run_dir / "checkpoints" / "trial").glob("checkpoint_*/state.json")
    return sorted(int(state.parent.name.rpartition("_")[2]) for state in states)


@dataclass(frozen=True)
class Moment:
    """When a fault comes: so long after a checkpoint; 0: after the processes have started."""

    after: int
    """Iterations saved since the fault before, or since the beginning."""
    delay_s: float

    @classmethod
    def draw(cls, fault: str, index: int, least: int = 0) -> Moment:
        """A single one comes while the run trains. Of many the first comes before anything is
        saved, and a fifth of the others while the run starts again.

        Args:
            least: value of ``after`` at least.
        """
        rng = random.Random(f"{fault} {index}")
        if MOMENTS == 1:
            return cls(max(least, rng.randrange(2, 6) * INTERVAL), rng.uniform(0, 0.2))
        if least == 0 and (index == 0 or rng.random() < 0.2):
            return cls(0, rng.uniform(0, 4))
        return cls(max(least, rng.randrange(1, 5) * INTERVAL), rng.uniform(0, 0.2))

    def wait(self, run_dir: Path, alive: Callable[[], bool], since: float = 0.0) -> None:
        """Return when it has come.

        Args:
            since: when the fault before struck (``time.time``); the run has to start again first.
        """
        until = time.monotonic() + END_S

        def wait_for(reached: Callable[[], bool]) -> None:
            while not reached():
                assert alive(), "the run ended before its moment"
                assert time.monotonic() < until, "the moment has not come in time"
                time.sleep(0.01)

        wait_for(lambda: _modified(run_dir / "processes.json") > since)
        if self.after:
            base = max(saved(run_dir), default=0) if since else 0
            wait_for(lambda: max(saved(run_dir), default=0) >= base + self.after)
        time.sleep(self.delay_s)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return -1.0


def pid_of(run_dir: Path, who: str) -> int:
    """Of ``controller``, ``feeder``, or a network by its name."""
    places: dict[str, Any] = processes(run_dir)
    if who == "controller":
        return int(places["controller"]["pid"])
    if who == "feeder":
        return int(places["feeders"][0]["pid"])
    return int(places["networks"][who][0]["pid"])
