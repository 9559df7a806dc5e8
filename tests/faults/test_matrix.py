"""The fault matrix (``make test-faults``): what is killed, stopped, filled or damaged, and how the
run ends. Related faults strike one run in turn, which starts again from a checkpoint after each;
``MOMENTS=10`` for ten random moments of each fault, the default is one."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    STRIKES,
    Launched,
    Moment,
    launched,
    pid_of,
    saved,
    train_command,
)
from tests.faults.table import Row
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


@dataclass
class Strike:
    """One fault that came."""

    fault: str
    """As the table names it."""
    before: int
    """Iteration of the newest checkpoint then."""
    at_s: float
    """``time.monotonic``"""
    outcome: str = WENT_ON


class Check:
    """A disturbed run, what it is held to, and its rows in the table.

    Args:
        data_root: of the drawn shapes.
        run_dir: of the run.
        more: overrides.
    """

    def __init__(self, data_root: Path, run_dir: Path, *more: str) -> None:
        self.data_root, self.run_dir, self.more = data_root, run_dir, more
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

    def await_moment(self, run: Launched, fault: str, index: int, *, least: int = 0) -> Moment:
        """Return when ``fault`` shall strike for the ``index``-th time."""
        moment = Moment.draw(fault, index, least)
        moment.wait(self.run_dir, lambda: run.process.poll() is None, self._since)
        return moment

    def strike(self, fault: str, outcome: str = WENT_ON, before: int | None = None) -> Strike:
        """It comes now."""
        if before is None:
            before = max(saved(self.run_dir), default=0)
        self.strikes.append(Strike(fault, before, time.monotonic(), outcome))
        self._since = time.time()
        return self.strikes[-1]

    def recovered(self, expected: dict[str, Any], rows: list[Row]) -> None:
        """The last command ends well, and the whole held what it must.

        After each strike the run trains again from the newest checkpoint at the strike, unless the
        next strike came before that; at the end nothing is left over, all iterations are done, and
        the weights are those of the undisturbed run.
        """
        last = self.runs[-1]
        last.process.wait(STRIKES * END_S)
        assert last.end() == 0, last.text
        for each in self.runs:
            assert not each.family.orphans(), "processes are left"
        assert max(saved(self.run_dir)) == ITERATIONS
        assert_equal_weights(final_weights(self.run_dir), expected)
        nexts = [strike.at_s for strike in self.strikes[1:]] + [math.inf]
        for strike, until in zip(self.strikes, nexts):
            seconds = self._recovery(strike, until)
            row = Row(fault=strike.fault, outcome=strike.outcome, seconds=seconds, equal=True)
            rows.append(row)
        assert rows[-1].seconds is not None

    def said(self, words: Iterable[str]) -> None:
        """The only command named every loss, and counted all."""
        (run,) = self.runs
        for each in words:
            assert run.text.count(each) >= MOMENTS, run.text
        assert f"restart {STRIKES} of {STRIKES} for lost processes" in run.text

    def _recovery(self, strike: Strike, until: float) -> float | None:
        """Seconds from the strike until the networks train; None if the next came before."""
        lines = [(at, line) for run in self.runs for at, line in run.lines]
        after = [(at, line) for at, line in sorted(lines) if strike.at_s < at < until]
        if strike.outcome == WENT_ON:  # a start that was struck may still say that it is ready
            again = next((at for at, line in after if "restart " in line), math.inf)
            after = [(at, line) for at, line in after if at > again]
        ready = next((at for at, line in after if "networks:" in line), None)
        words = "going on at iteration"
        going = [int(line.rpartition(words)[2]) for _, line in after if words in line]
        if ready is None or (strike.before and not going):
            assert until < math.inf, self.runs[-1].text
            return None
        assert not strike.before or going[0] >= strike.before, self.runs[-1].text
        return ready - strike.at_s


def in_turn(*faults: str) -> list[tuple[str, int]]:
    """Every moment of every fault, one fault after the other."""
    return [(fault, index) for index in range(MOMENTS) for fault in faults]


KILLED = {
    "kill -9 of network r18": ("r18", "network 'r18'"),
    "kill -9 of network r34": ("r34", "network 'r34'"),
    "kill -9 of the feeder": ("feeder", "feeder 0"),
    "kill -9 of the controller": ("controller", "the controller"),
}
STOPPED = {
    f"SIGSTOP of a network (`hang_timeout={HANG_S}`)": ("r34", "network 'r34' does not answer"),
    f"SIGSTOP of the controller (`hang_timeout={HANG_S}`)": ("controller", "has said nothing for"),
}


@pytest.mark.parametrize("who", [("r18", "r34"), ("feeder", "controller")], ids=" and ".join)
def test_killed_process(
    who: tuple[str, str], data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    faults = {fault: target for fault, target in KILLED.items() if target[0] in who}
    with Check(data_root, tmp_path / "run", f"resources.max_retries={STRIKES}") as check:
        strike_processes(check, faults, signal.SIGKILL).recovered(undisturbed, rows)
        check.said(words for _, words in faults.values())


def test_stopped_process(
    data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    more = (f"resources.max_retries={STRIKES}", f"resources.hang_timeout={HANG_S}")
    with Check(data_root, tmp_path / "run", *more) as check:
        strike_processes(check, STOPPED, signal.SIGSTOP).recovered(undisturbed, rows)
        check.said(words for _, words in STOPPED.values())


def strike_processes(check: Check, faults: Mapping[str, tuple[str, str]], number: int) -> Check:
    """Send a signal to one process of one run after the other."""
    run = check.start()
    for fault, index in in_turn(*faults):
        check.await_moment(run, fault, index)
        check.strike(fault)
        os.kill(pid_of(check.run_dir, faults[fault][0]), number)
    return check


def test_killed_launcher(
    data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    with Check(data_root, tmp_path / "run") as check:
        for fault, index in in_turn("kill -9 of the launcher"):
            run = check.start()
            check.await_moment(run, fault, index)
            check.strike(fault, RESUMED)
            run.process.kill()
            assert run.end() == -signal.SIGKILL
        check.start()
        check.recovered(undisturbed, rows)


def test_sigterm(data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]) -> None:
    with Check(data_root, tmp_path / "run") as check:
        for fault, index in in_turn(
            "SIGTERM to the launcher", "SIGTERM to the launcher's process group"
        ):
            # `timeout` sends it to its group
            run = check.start(*("timeout", "--signal=INT", "1000") if "group" in fault else ())
            moment = check.await_moment(run, fault, index)
            outcome = f"checkpoint, exit code 143, {RESUMED.partition(', ')[2]}"
            strike = check.strike(fault, outcome)
            run.process.send_signal(signal.SIGTERM)
            code = run.end()
            if moment.after == 0 and code == 2:  # this start had nothing to save yet
                assert "stopped before the first iteration" in run.text
                strike.outcome = "nothing to save yet, exit code 2, `--resume` went on"
            else:
                assert code == 143 and "stopped at iteration" in run.text, run.text
            assert max(saved(check.run_dir), default=0) >= strike.before
        check.start()
        check.recovered(undisturbed, rows)


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
    with small_disk(tmp_path) as disk, Check(data_root, disk / "run") as check:
        for fault, index in in_turn("disk full while a checkpoint is written"):
            run = check.start()
            check.await_moment(run, fault, index, least=INTERVAL)
            strike = check.strike(fault, RESUMED)
            ballast = disk / "ballast"
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(b"x" * 2**18)
            assert run.end() == 2, run.text
            assert "No space left on device" in run.text and "--resume" in run.text
            ballast.unlink()
            assert max(saved(check.run_dir)) >= strike.before, "a checkpoint was lost"
        check.start()
        check.recovered(undisturbed, rows)


def test_damaged_checkpoint(
    data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    with Check(data_root, tmp_path / "run") as check:
        for fault, index in in_turn("checkpoint truncated", "checkpoint one bit flipped"):
            run = check.start()
            check.await_moment(run, fault, index, least=2 * INTERVAL)
            run.process.send_signal(signal.SIGTERM)
            assert run.end() == 143, run.text
            spoil(check.run_dir, "truncated" in fault, random.Random(f"{fault} {index}"))
            *_, before, _ = saved(check.run_dir)
            check.strike(fault, "passed over for the one before", before)
        check.start()
        check.recovered(undisturbed, rows)
        for strike, resumed in zip(check.strikes, check.runs[1:]):
            assert "passing over a damaged checkpoint" in resumed.text
            assert f"going on at iteration {strike.before} " in f"{resumed.text} "


def spoil(run_dir: Path, truncate: bool, rng: random.Random) -> None:
    """Damage a file of the newest checkpoint."""
    newest = max((run_dir / "checkpoints" / "trial").glob("checkpoint_*"))
    part = rng.choice(sorted(newest.glob("*.pt")))
    content = bytearray(part.read_bytes())
    position = rng.randrange(len(content))
    if truncate:
        del content[position:]
    else:
        content[position] ^= 1 << rng.randrange(8)
    part.write_bytes(content)


def cluster_command(check: Check, fault: str, way: str, nodes: int, moments: int) -> list[str]:
    """The run on a cluster of so many nodes and a head, which loses some ``way``."""
    overrides = [f"data.root={check.data_root}", *OVERRIDES, "resources.placement=spread"]
    request = dict(
        run_dir=str(check.run_dir),
        overrides=overrides,
        fault=way,
        nodes=nodes,
        moments=[astuple(Moment.draw(fault, index)) for index in range(moments)],
    )
    return [sys.executable, "-m", "tests.faults.cluster_run", json.dumps(request)]


def strikes_of(run: Launched, fault: str, outcome: str) -> list[Strike]:
    """What a run on a cluster says of its lost nodes."""
    said = [(at, line.split()) for at, line in run.lines if line.startswith("FAULT after")]
    return [Strike(fault, int(words[3]), at, outcome) for at, words in said]


@pytest.mark.parametrize(
    ("way", "words"),
    [("raylet", "kill -9 of a worker node's raylet"), ("remove", "removal of a worker node")],
)
def test_lost_node(
    way: str, words: str, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    with Check(data_root, tmp_path / "run") as check:
        run = check.watch(cluster_command(check, words, way, 3, MOMENTS))
        run.process.wait(MOMENTS * END_S)
        check.strikes = strikes_of(run, words, WENT_ON)
        assert len(check.strikes) == MOMENTS, run.text
        check.recovered(undisturbed, rows)
        assert f"restart {MOMENTS} of 20 for lost nodes" in run.text


def test_lost_node_without_another(
    data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = "removal of a node that the run cannot do without"
    with Check(data_root, tmp_path / "run") as check:
        run = check.watch(cluster_command(check, fault, "remove", 1, 1))
        assert run.end() == 2, run.text
        assert "the run asks for" in run.text and "--wait-for-resources" in run.text
        check.strikes = strikes_of(run, fault, f"said what is missing, {RESUMED}")
        check.start()
        check.recovered(undisturbed, rows)
