"""The fault matrix (``make test-faults``): what is killed, stopped, filled or damaged, and how the
run ends. ``MOMENTS=10`` strikes each fault at ten random moments; the default is one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import (
    ITERATIONS,
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

MOMENTS = range(int(os.environ.get("MOMENTS", "1")))
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


class Check:
    """What every disturbed run is held to; adds a row to the table."""

    def __init__(self, fault: str, expected: dict[str, Any], rows: list[Row]) -> None:
        self.fault, self.expected, self.rows = fault, expected, rows
        self.struck_s, self.before = 0.0, 0

    def strike(self, run_dir: Path) -> None:
        """The fault comes now."""
        self.before = max(saved(run_dir), default=0)
        self.struck_s = time.monotonic()

    def recovered(self, run: Launched, outcome: str) -> None:
        """The run trains again, from no earlier than the newest checkpoint at the fault."""
        networks_s = run.time_of("networks:", after=self.struck_s)
        assert networks_s is not None, run.text
        assert not run.family.orphans(), "processes are left"
        self.ended(run.run_dir, outcome, networks_s - self.struck_s)
        if self.before:
            assert went_on_at(run, self.struck_s) >= self.before, run.text

    def ended(self, run_dir: Path, outcome: str, seconds: float) -> None:
        """All iterations are done, with the weights of the undisturbed run."""
        assert max(saved(run_dir)) == ITERATIONS
        assert_equal_weights(final_weights(run_dir), self.expected)
        self.rows.append(Row(fault=self.fault, outcome=outcome, seconds=seconds, equal=True))


def went_on_at(run: Launched, after: float) -> int:
    """Iteration that a run says to go on at."""
    words = "going on at iteration"
    lines = [line for at, line in run.lines if at > after and words in line]
    assert lines, run.text
    return int(lines[0].rpartition(words)[2])


def resume(check: Check, data_root: Path, run_dir: Path, *more: str) -> Launched:
    """The same command with ``--resume``, to the end."""
    command = train_command(data_root, run_dir, *more, resume=True)
    with launched(command, run_dir) as run:
        assert run.end() == 0, run.text
        assert not run.family.orphans(), "processes are left"
    return run


def running(run: Launched) -> Any:
    return lambda: run.process.poll() is None


@pytest.mark.parametrize("index", MOMENTS)
@pytest.mark.parametrize("who", ["r18", "r34", "feeder", "controller"])
def test_killed_process(
    who: str, index: int, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = f"kill -9 of {'network ' if who.startswith('r') else 'the '}{who}"
    check, run_dir = Check(fault, undisturbed, rows), tmp_path / "run"
    with launched(train_command(data_root, run_dir), run_dir) as run:
        Moment.draw(fault, index).wait(run_dir, running(run))
        check.strike(run_dir)
        os.kill(pid_of(run_dir, who), signal.SIGKILL)
        assert run.end() == 0, run.text
        assert "restart 1 of 3 for lost processes" in run.text
        check.recovered(run, WENT_ON)


@pytest.mark.parametrize("index", MOMENTS)
@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("r34", "network 'r34' does not answer"),
        ("controller", "the controller has said nothing for"),
    ],
)
def test_stopped_process(
    who: str,
    words: str,
    index: int,
    data_root: Path,
    tmp_path: Path,
    undisturbed: Any,
    rows: list[Row],
) -> None:
    what = "a network" if who.startswith("r") else "the controller"
    fault = f"SIGSTOP of {what} (`hang_timeout={HANG_S}`)"
    check, run_dir = Check(fault, undisturbed, rows), tmp_path / "run"
    command = train_command(data_root, run_dir, f"resources.hang_timeout={HANG_S}")
    with launched(command, run_dir) as run:
        Moment.draw(fault, index).wait(run_dir, running(run))
        check.strike(run_dir)
        os.kill(pid_of(run_dir, who), signal.SIGSTOP)
        assert run.end() == 0, run.text
        assert words in run.text
        check.recovered(run, WENT_ON)


@pytest.mark.parametrize("index", MOMENTS)
def test_killed_launcher(
    index: int, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = "kill -9 of the launcher"
    check, run_dir = Check(fault, undisturbed, rows), tmp_path / "run"
    with launched(train_command(data_root, run_dir), run_dir) as run:
        Moment.draw(fault, index).wait(run_dir, running(run))
        check.strike(run_dir)
        run.process.kill()
        assert run.end() == -signal.SIGKILL
        resumed = resume(check, data_root, run_dir)
        assert not run.family.orphans(), "processes are left"
    check.recovered(resumed, RESUMED)


@pytest.mark.parametrize("index", MOMENTS)
@pytest.mark.parametrize("whom", ["the launcher", "the launcher's process group"])
def test_sigterm(
    whom: str, index: int, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = f"SIGTERM to {whom}"
    check, run_dir = Check(fault, undisturbed, rows), tmp_path / "run"
    command = train_command(data_root, run_dir)
    if "group" in whom:  # `timeout` sends it to its group
        command = ["timeout", "--signal=INT", "1000", *command]
    with launched(command, run_dir) as run:
        Moment.draw("SIGTERM", index + 100 * (index > 0)).wait(run_dir, running(run))
        check.strike(run_dir)
        run.process.send_signal(signal.SIGTERM)
        code = run.end()
        assert not run.family.orphans(), "processes are left"
    if check.before:
        assert code == 143, run.text
        assert "stopped at iteration" in run.text
        assert max(saved(run_dir)) >= check.before
        outcome = f"checkpoint, exit code 143, {RESUMED.partition(', ')[2]}"
    else:  # before the first iteration there is nothing to save
        assert code == 2, run.text
        outcome = "nothing to save yet, `--resume` began anew"
    check.recovered(resume(check, data_root, run_dir), outcome)


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


@pytest.mark.parametrize("index", MOMENTS)
def test_full_disk(
    index: int, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = "disk full while a checkpoint is written"
    check = Check(fault, undisturbed, rows)
    with small_disk(tmp_path) as disk:
        run_dir = disk / "run"
        with launched(train_command(data_root, run_dir), run_dir) as run:
            moment = Moment.draw(fault, 0 if index == 0 else index + 1)
            Moment(max(moment.after, 2), moment.delay_s).wait(run_dir, running(run))
            check.strike(run_dir)
            ballast = disk / "ballast"
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(b"x" * 2**18)
            assert run.end() == 2, run.text
            assert "No space left on device" in run.text and "--resume" in run.text
            assert not run.family.orphans(), "processes are left"
        ballast.unlink()
        assert max(saved(run_dir)) >= check.before, "a checkpoint was lost"
        check.recovered(resume(check, data_root, run_dir), RESUMED)


@pytest.mark.parametrize("index", MOMENTS)
@pytest.mark.parametrize("damage", ["truncated", "one bit flipped"])
def test_damaged_checkpoint(
    damage: str, index: int, data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = f"checkpoint {damage}"
    check, run_dir = Check(fault, undisturbed, rows), tmp_path / "run"
    rng = random.Random(f"{fault} {index}")
    with launched(train_command(data_root, run_dir), run_dir) as run:
        moment = Moment.draw(fault, index)
        Moment(max(moment.after, 4), moment.delay_s).wait(run_dir, running(run))
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143, run.text
    *_, before, newest = sorted((run_dir / "checkpoints" / "trial").glob("checkpoint_*"))
    part = rng.choice(sorted(newest.glob("*.pt")))
    content = bytearray(part.read_bytes())
    position = rng.randrange(len(content))
    if damage == "truncated":
        del content[position:]
    else:
        content[position] ^= 1 << rng.randrange(8)
    part.write_bytes(content)
    check.struck_s = time.monotonic()
    resumed = resume(check, data_root, run_dir)
    assert "passing over a damaged checkpoint" in resumed.text
    assert went_on_at(resumed, 0) == int(before.name.rpartition("_")[2])
    check.recovered(resumed, "passed over for the one before")


def cluster_command(
    data_root: Path, run_dir: Path, fault: str, nodes: int, at: Moment
) -> list[str]:
    overrides = [f"data.root={data_root}", *OVERRIDES, "resources.placement=spread"]
    request = dict(
        run_dir=str(run_dir),
        overrides=overrides,
        fault=fault,
        nodes=nodes,
        after=at.after,
        delay_s=at.delay_s,
    )
    return [sys.executable, "-m", "tests.faults.cluster_run", json.dumps(request)]


@pytest.mark.parametrize("index", MOMENTS)
@pytest.mark.parametrize(
    ("way", "words"),
    [("raylet", "kill -9 of a worker node's raylet"), ("remove", "removal of a worker node")],
)
def test_lost_node(
    way: str,
    words: str,
    index: int,
    data_root: Path,
    tmp_path: Path,
    undisturbed: Any,
    rows: list[Row],
) -> None:
    check, run_dir = Check(words, undisturbed, rows), tmp_path / "run"
    command = cluster_command(data_root, run_dir, way, 3, Moment.draw(words, index))
    with launched(command, run_dir) as run:
        code = run.end()
        assert code == 0, run.text
        struck_s = run.time_of("FAULT")
        assert struck_s is not None
        check.struck_s = struck_s
        assert "restart 1 of 20 for lost nodes" in run.text
        check.recovered(run, WENT_ON)


def test_lost_node_without_another(
    data_root: Path, tmp_path: Path, undisturbed: Any, rows: list[Row]
) -> None:
    fault = "removal of a node that the run cannot do without"
    check, run_dir = Check(fault, undisturbed, rows), tmp_path / "run"
    command = cluster_command(data_root, run_dir, "remove", 1, Moment.draw(fault, 0))
    with launched(command, run_dir) as run:
        assert run.end() == 2, run.text
        struck_s = run.time_of("FAULT")
        assert struck_s is not None
        assert "the run asks for" in run.text and "--wait-for-resources" in run.text
        assert not run.family.orphans(), "processes are left"
    check.struck_s = struck_s
    check.before = max(saved(run_dir))
    check.recovered(resume(check, data_root, run_dir), f"said what is missing, {RESUMED}")
    shutil.rmtree(run_dir)
