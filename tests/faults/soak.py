"""``python -m tests.faults.soak --minutes N --kill-every S``: tiny CoLAD under fire
(``--iterations N`` instead of minutes: until so many are saved).

A random process of the run (network, feeder, controller, now and then the launcher) is killed every
S seconds or so. At the end the run is stopped by SIGTERM. What must hold: every iteration is logged
once, the weights are those of a run of the same length that nobody disturbs, no process is left,
and the memory of every process stays where it was after its first half minute: that is printed.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from orchestrator.watch import read_progress
from tests.faults.harness import END_S, Launched, launched, pid_of, saved, train_command
from tests.support.runs import assert_equal_weights, final_weights

ROLES = ("r18", "r34", "feeder", "controller")
WARM_S = 30.0
"""Memory is compared from here on in a process's life."""
LAUNCHER_SHARE = 0.2
LENGTH = 1_000_000


@dataclass
class Life:
    """The memory of one process, in MB."""

    role: str
    began_s: float = field(default_factory=time.monotonic)
    first: float = 0.0
    last: float = 0.0
    seconds: float = 0.0

    def sample(self, megabytes: float) -> None:
        """Note the memory now."""
        age = time.monotonic() - self.began_s
        if age >= WARM_S and megabytes > 0:
            self.first = self.first or megabytes
            self.last, self.seconds = megabytes, age


def rss(pid: int) -> float:
    """Resident memory of its own in MB (what it maps of the object store is not)."""
    try:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return int(fields["RssAnon"].split()[0]) / 1024
    except (OSError, KeyError):
        return 0.0


def pids(run: Launched) -> dict[int, str]:
    """The run's processes and their roles, and Ray's own."""
    found = {run.process.pid: "launcher"}
    for role in ROLES:
        try:
            found[pid_of(run.run_dir, role)] = role
        except (OSError, ValueError, KeyError):  # before the first is written
            continue
    for pid, command in run.family.alive().items():
        for name in ("raylet/raylet", "gcs_server"):
            if name in command.split(" ")[0]:
                found[pid] = name.rpartition("/")[2]
    return found


class Soak:
    """One soak.

    Args:
        folder: for data and runs.
        seed: of who is killed, and when.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.data_root, self.run_dir = folder / "shapes", folder / "run"
        self.rng = random.Random(seed)
        self.kills: dict[str, int] = {}
        self.lives: dict[int, Life] = {}
        self.orphans: dict[int, str] = {}
        self.minutes = 0.0

    @contextmanager
    def training(self, *, resume: bool) -> Iterator[Launched]:
        command = train_command(
            self.data_root,
            self.run_dir,
            f"train.max_iterations={LENGTH}",
            "resources.max_retries=1000000",
            "checkpoint.interval=200",
            "checkpoint.keep=2",
            "log.assignments_interval=1000",
            resume=resume,
        )
        with launched(command, self.run_dir) as run:
            yield run
            self.orphans.update(run.family.orphans())

    def run(self, minutes: float, every_s: float, iterations: int | None = None) -> None:
        """Train and kill for so long, or for so many iterations; ends with the run stopped."""
        began_s = time.monotonic()
        end = math.inf if iterations is not None else began_s + 60 * minutes
        again, resume = True, False
        while again:
            with self.training(resume=resume) as run:
                again = resume = self._fire(run, end, every_s, iterations)
                if not again:
                    self._await_training(run)
                    run.process.send_signal(signal.SIGTERM)
                code = run.end()
                assert again or code == 143, run.text
        self.minutes = (time.monotonic() - began_s) / 60

    def _await_training(self, run: Launched) -> None:
        """A run that has not yet begun, or begins again, has nothing to save at a signal."""
        until = time.monotonic() + END_S
        before = self._iteration()
        while not (before < self._iteration()):
            assert run.process.poll() is None and time.monotonic() < until, run.text
            before = self._iteration()
            time.sleep(3)

    def _iteration(self) -> int:
        report = read_progress(self.run_dir)
        return 0 if report is None else report.progress.iteration

    def _fire(self, run: Launched, end: float, every_s: float, iterations: int | None) -> bool:
        """Kill until the end is reached (False) or the launcher was hit (True)."""
        next_s = time.monotonic() + every_s * self.rng.uniform(0.5, 1.5)
        while time.monotonic() < end:
            time.sleep(1)
            assert run.process.poll() is None, run.text
            if iterations is not None and max(saved(self.run_dir), default=0) >= iterations:
                return False
            for pid, role in pids(run).items():
                self.lives.setdefault(pid, Life(role)).sample(rss(pid))
            if time.monotonic() < next_s or not saved(self.run_dir):
                continue
            next_s = time.monotonic() + every_s * self.rng.uniform(0.5, 1.5)
            launcher = self.rng.random() < LAUNCHER_SHARE
            role = "launcher" if launcher else self.rng.choice(ROLES)
            pid = run.process.pid if launcher else pid_of(self.run_dir, role)
            if pid not in run.family.alive():  # between two lives
                continue
            os.kill(pid, signal.SIGKILL)
            self.kills[role] = self.kills.get(role, 0) + 1
            if launcher:
                return True
        return False

    def check(self) -> int:
        """What must hold; returns the iterations done."""
        done = max(saved(self.run_dir))
        log = pd.read_parquet(self.run_dir / "iterations.parquet")
        for learner, rows in log.groupby("network"):
            assert sorted(rows["iteration"]) == list(range(done)), f"{learner}: log"
            assert rows["loss_total"].notna().all(), f"{learner}: losses"
        assert not self.orphans, self.orphans
        return done

    def compare(self, done: int) -> None:
        """The weights with those of an undisturbed run that is stopped at the same iteration."""
        other = self.run_dir.with_name("undisturbed")
        command = train_command(
            self.data_root, other, f"train.max_iterations={LENGTH}", f"checkpoint.interval={done}"
        )
        with launched(command, other) as run:
            while not saved(other):
                time.sleep(0.5)
                assert run.process.poll() is None, run.text
            run.process.kill()
        newest = self.run_dir / "checkpoints"
        assert newest.is_dir()
        for folder in (other / "checkpoints" / "trial").glob("checkpoint_*"):
            if folder.name != f"checkpoint_{done:09d}":
                raise AssertionError(f"{folder}: expected iteration {done}")
        assert_equal_weights(final_weights(self.run_dir), final_weights(other))

    def table(self) -> str:
        """Memory by role: the largest growth of any process of it."""
        lines = ["role        lives  longest s  MB first  MB last"]
        measured = [life for life in self.lives.values() if life.seconds]
        for role in dict.fromkeys(life.role for life in measured):
            same = [life for life in measured if life.role == role]
            worst = max(same, key=lambda life: life.last - life.first)
            longest = max(life.seconds for life in same)
            lines.append(
                f"{role:<10} {len(same):>6} {longest:>10.0f} {worst.first:>9.1f} {worst.last:>8.1f}"
            )
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=120.0)
    length.add_argument("--iterations", type=int)
    parser.add_argument("--kill-every", type=float, default=180.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="colad-soak-")))
        soak = Soak(folder, arguments.seed)
        soak.run(arguments.minutes, arguments.kill_every, arguments.iterations)
        done = soak.check()
        kills = ", ".join(f"{role} {count}" for role, count in sorted(soak.kills.items()))
        print(f"{done} iterations in {soak.minutes:.0f} minutes; killed: {kills or 'nobody'}")
        print(soak.table(), flush=True)
        soak.compare(done)
    print("every iteration logged once, weights bit-equal to an undisturbed run, nothing left over")
    sys.exit(0)


if __name__ == "__main__":
    main()
