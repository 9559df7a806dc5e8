"""The fault matrix (``make test-faults``): what is killed, stopped, filled or damaged, and how the
run ends. ``MOMENTS=10`` strikes each fault at ten random moments, one after the other in one run,
which starts again from a checkpoint after each; the default is one."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import (
    END_S,
    INTERVAL,
    ITERATIONS,
    MOMENTS,
    OVERRIDES,
    Launched,
    Moment,
    launched,
    pid_of,
    saved,
    train_command,
)
from tests.faults.table import Row, write
from tests.support.runs import assert_equal_weights, final_weights

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.ray]

HANG_S = 40
WENT_ON = "went on by itself"
RESUMED = "ended, `--resume` went on"


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "shapes"


@pytest.fixture(scope="session")
def undisturbed(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    with launched(train_command(data_root, run_dir), run_dir) as run:
        assert run.end() == 0, run.text
        assert not run.family.orphans()
    return final_weights(run_dir)


@pytest.fixture(scope="session")
def rows() -> Iterator[list[Row]]:
    collected: list[Row] = []
    yield collected
    write(collected)


@dataclass
class Strike:
    """One fault that came."""

    before: int
    """Iteration of the newest checkpoint then."""
    at_s: float
    """``time.monotonic``"""
    outcome: str = WENT_ON


class Check:
    """A disturbed run, what it is held to, and its rows in the table.

    Args:
        fault: as the table names it.
        data_root: of the drawn shapes.
        run_dir: of the run.
        more: overrides.
    """

    def __init__(self, fault: str, data_root: Path, run_dir: Path, *more: str) -> None:
        self.fault, self.data_root, self.run_dir, self.more = fault, data_root, run_dir, more
        self.strikes: list[Strike] = []
        self.runs: list[Launched] = []
        self._stack = ExitStack()
        self._since = 0.0

    def __enter__(self) -> Check:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def start(self, *prefix: str) -> Launched:
        """The command; from the second time on with ``--resume``."""
        command = train_command(self.data_root, self.run_dir, *self.more, resume=bool(self.runs))
        return self.watch([*prefix, *command])

    def watch(self, command: Sequence[str]) -> Launched:
        """Start any command that trains in this run's directory."""
        run = self._stack.enter_context(launched(command, self.run_dir))
        self.runs.append(run)
        return run

    def await_moment(self, run: Launched, index: int, *, name: str = "", least: int = 0) -> Moment:
        """Return when the fault shall strike for the ``index``-th time."""
        moment = Moment.draw(name or self.fault, index, least)
        moment.wait(self.run_dir, lambda: run.process.poll() is None, self._since)
        return moment

    def strike(self, outcome: str = WENT_ON, before: int | None = None) -> Strike:
        """The fault comes now."""
        if before is None:
            before = max(saved(self.run_dir), default=0)
        self.strikes.append(Strike(before, time.monotonic(), outcome))
        self._since = time.time()
        return self.strikes[-1]

    def recovered(self, run: Launched, expected: dict[str, Any], rows: list[Row]) -> None:
        """``run`` ends well, and the whole held what it must.

        After each strike the run trains again from the newest checkpoint at the strike, unless the
        next strike came before that; at the end nothing is left over, all iterations are done, and
        the weights are those of the undisturbed run.
        """
        assert run.end() == 0, run.text
        for each in self.runs:
            assert not each.family.orphans(), "processes are left"
        assert max(saved(self.run_dir)) == ITERATIONS
        assert_equal_weights(final_weights(self.run_dir), expected)
        nexts = [strike.at_s for strike in self.strikes[1:]] + [math.inf]
        for strike, until in zip(self.strikes, nexts):
            seconds = self._recovery(strike, until)
            row = Row(fault=self.fault, outcome=strike.outcome, seconds=seconds, equal=True)
            rows.append(row)
        assert rows[-1].seconds is not None

    def _recovery(self, strike: Strike, until: float) -> float | None:
        """Seconds from the strike until the networks train; None if the next came before."""
        lines = [(at, line) for run in self.runs for at, line in run.lines]
        after = [(at, line) for at, line in sorted(lines) if strike.at_s < at < until]
        ready = next((at for at, line in after if "networks:" in line), None)
        words = "going on at iteration"
        going = [int(line.rpartition(words)[2]) for _, line in after if words in line]
        if ready is None or (strike.before and not going):
            assert until < math.inf, self.runs[-1].text
            return None
        assert not strike.before or going[0] >= strike.before, self.runs[-1].text
        return ready - strike.at_s


STOPPED = f"(`hang_timeout={HANG_S}`)"


@pytest.mark.parametrize(
    ("fault", "who", "words"),
    [
        ("kill -9 of network r18", "r18", "network 'r18'"),
        ("kill -9 of network r34", "r34", "network 'r34'"),
        ("kill -9 of the feeder", "feeder", "feeder 0"),
        ("kill -9 of the controller", "controller", "the controller"),
        (f"SIGSTOP of a network {STOPPED}", "r34", "network 'r34' does not answer"),
        (f"SIGSTOP of the controller {STOPPED}", "controller", "has said nothing for"),
    ],
    ids=lambda value: value.partition(" (")[0] if " of " in value else "",
)
def test_struck_process(
    fault: str,
    who: str,
    words: str,
    data_root: Path,
    tmp_path: Path,
    undisturbed: Any,
    rows: list[Row],
) -> None:
    more = [f"resources.max_retries={MOMENTS}"]
    stop = fault.startswith("SIGSTOP")
    if stop:
        more.append(f"resources.hang_timeout={HANG_S}")
    with Check(fault, data_root, tmp_path / "run", *more) as check:
        run = check.start()
        for index in range(MOMENTS):
            check.await_moment(run, index)
            check.strike()
            os.kill(pid_of(check.run_dir, who), signal.SIGSTOP if stop else signal.SIGKILL)
        check.recovered(run, undisturbed, rows)
        assert run.text.count(words) >= MOMENTS
        assert f"restart {MOMENTS} of {MOMENTS} for lost processes" in run.text


def test_killed_launcher(
    data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    with Check("kill -9 of the launcher", data_root, tmp_path / "run") as check:
        for index in range(MOMENTS):
            run = check.start()
            check.await_moment(run, index)
            check.strike(RESUMED)
            run.process.kill()
            assert run.end() == -signal.SIGKILL
        check.recovered(check.start(), undisturbed, rows)


@pytest.mark.parametrize("whom", ["the launcher", "the launcher's process group"])
def test_sigterm(
    whom: str, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    # `timeout` sends it to its group
    prefix = ("timeout", "--signal=INT", "1000") if "group" in whom else ()
    with Check(f"SIGTERM to {whom}", data_root, tmp_path / "run") as check:
        for index in range(MOMENTS):
            run = check.start(*prefix)
            moment = check.await_moment(run, index, name="SIGTERM")
            strike = check.strike(f"checkpoint, exit code 143, {RESUMED.partition(', ')[2]}")
            run.process.send_signal(signal.SIGTERM)
            code = run.end()
            if moment.after == 0 and code == 2:  # this start had nothing to save yet
                assert "stopped before the first iteration" in run.text
                strike.outcome = "nothing to save yet, exit code 2, `--resume` went on"
            else:
                assert code == 143 and "stopped at iteration" in run.text, run.text
            assert max(saved(check.run_dir), default=0) >= strike.before
        check.recovered(check.start(), undisturbed, rows)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 256 MB of its own; needs root."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here (needs root)")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_full_disk(data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]) -> None:
    fault = "disk full while a checkpoint is written"
    with small_disk(tmp_path) as disk, Check(fault, data_root, disk / "run") as check:
        for index in range(MOMENTS):
            run = check.start()
            check.await_moment(run, index, least=INTERVAL)
            strike = check.strike(RESUMED)
            ballast = disk / "ballast"
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(b"x" * 2**18)
            assert run.end() == 2, run.text
            assert "No space left on device" in run.text and "--resume" in run.text
            ballast.unlink()
            assert max(saved(check.run_dir)) >= strike.before, "a checkpoint was lost"
        check.recovered(check.start(), undisturbed, rows)


@pytest.mark.parametrize("damage", ["truncated", "one bit flipped"])
def test_damaged_checkpoint(
    damage: str, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = f"checkpoint {damage}"
    with Check(fault, data_root, tmp_path / "run") as check:
        for index in range(MOMENTS):
            run = check.start()
            check.await_moment(run, index, least=2 * INTERVAL)
            run.process.send_signal(signal.SIGTERM)
            assert run.end() == 143, run.text
            spoil(check.run_dir, damage, random.Random(f"{fault} {index}"))
            *_, before, _ = saved(check.run_dir)
            check.strike("passed over for the one before", before)
        last = check.start()
        check.recovered(last, undisturbed, rows)
        for strike, resumed in zip(check.strikes, check.runs[1:]):
            assert "passing over a damaged checkpoint" in resumed.text
            assert f"going on at iteration {strike.before} " in f"{resumed.text} "


def spoil(run_dir: Path, damage: str, rng: random.Random) -> None:
    """Damage a file of the newest checkpoint."""
    newest = max((run_dir / "checkpoints" / "trial").glob("checkpoint_*"))
    part = rng.choice(sorted(newest.glob("*.pt")))
    content = bytearray(part.read_bytes())
    position = rng.randrange(len(content))
    if damage == "truncated":
        del content[position:]
    else:
        content[position] ^= 1 << rng.randrange(8)
    part.write_bytes(content)


def cluster_command(check: Check, way: str, nodes: int, moments: int) -> list[str]:
    """The run on a cluster of so many nodes and a head, which loses some ``way``."""
    overrides = [f"data.root={check.data_root}", *OVERRIDES, "resources.placement=spread"]
    request = dict(
        run_dir=str(check.run_dir),
        overrides=overrides,
        fault=way,
        nodes=nodes,
        moments=[astuple(Moment.draw(check.fault, index)) for index in range(moments)],
    )
    return [sys.executable, "-m", "tests.faults.cluster_run", json.dumps(request)]


def strikes_of(run: Launched, outcome: str) -> list[Strike]:
    """What a run on a cluster says of its lost nodes."""
    said = [(at, line.split()) for at, line in run.lines if line.startswith("FAULT after")]
    return [Strike(int(words[3]), at, outcome) for at, words in said]


@pytest.mark.parametrize(
    ("way", "words"),
    [("raylet", "kill -9 of a worker node's raylet"), ("remove", "removal of a worker node")],
)
def test_lost_node(
    way: str, words: str, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    with Check(words, data_root, tmp_path / "run") as check:
        run = check.watch(cluster_command(check, way, 3, MOMENTS))
        run.process.wait(MOMENTS * END_S)
        check.strikes = strikes_of(run, WENT_ON)
        assert len(check.strikes) == MOMENTS, run.text
        check.recovered(run, undisturbed, rows)
        assert f"restart {MOMENTS} of 20 for lost nodes" in run.text


def test_lost_node_without_another(
    data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = "removal of a node that the run cannot do without"
    with Check(fault, data_root, tmp_path / "run") as check:
        run = check.watch(cluster_command(check, "remove", 1, 1))
        assert run.end() == 2, run.text
        assert "the run asks for" in run.text and "--wait-for-resources" in run.text
        check.strikes = strikes_of(run, f"said what is missing, {RESUMED}")
        check.recovered(check.start(), undisturbed, rows)
