"""Whatever dies in between, the weights at the end are those of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.faults.harness import Moment, pid_of
from tests.support.runs import CONFIG, ROOT, assert_equal_weights, final_weights

pytestmark = pytest.mark.ray

Train = Callable[..., tuple[Any, Path]]
CHECKPOINTS = "checkpoint.interval=5"


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """Filled by the first test that needs it."""
    return {}


def reference(train: Train, known: dict[str, Any]) -> dict[str, Any]:
    if not known:
        result, run_dir = train(CHECKPOINTS, name="undisturbed")
        assert (result.outcome, result.iteration, result.retries) == ("finished", 20, 0)
        known.update(final_weights(run_dir))
    return known


def kill_in_turn(run_dir: Path, victims: Sequence[str], after: int) -> list[str]:
    """Kill -9 one process of the run after the other, each ``after`` saved iterations; who fell."""
    killed: list[str] = []

    def watch() -> None:
        since = 0.0
        for who in victims:
            moment = Moment(after, random.uniform(0, 0.05))
            moment.wait(run_dir, lambda: True, since)
            since = time.time()
            os.kill(pid_of(run_dir, who), signal.SIGKILL)
            killed.append(who)

    threading.Thread(target=watch, daemon=True).start()
    return killed


def test_killed_actors(train: Train, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    expected = reference(train, undisturbed)
    victims = ["r34", "feeder", "controller"]
    random.shuffle(victims)
    killed = kill_in_turn(tmp_path / "run", victims, after=4)
    result, run_dir = train("checkpoint.interval=4", "checkpoint.keep=20")
    assert killed == victims
    assert (result.outcome, result.iteration, result.retries) == ("finished", 20, 3)
    assert_equal_weights(final_weights(run_dir), expected)
    log = pd.read_parquet(run_dir / "iterations.parquet")
    assert sorted(log["iteration"]) == sorted([*range(20), *range(20)])


def test_too_many_losses_end_the_run(train: Train, tmp_path: Path) -> None:
    from orchestrator.launcher import RunFailed

    kill_in_turn(tmp_path / "run", ["r18"], after=5)
    with pytest.raises(RunFailed, match="given up after 0 restart"):
        train(CHECKPOINTS, "resources.max_retries=0", "train.max_iterations=200")


def test_interrupt_then_resume(
    train: Train,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    small_overrides: Sequence[str],
) -> None:
    """SIGTERM to the launcher and all of its group, as `timeout` sends it: a checkpoint, exit code
    143; --resume: the same weights."""
    expected = reference(train, undisturbed)
    run_dir = tmp_path / "interrupted"
    command = [sys.executable, "-m", "orchestrator.cli", "train", str(CONFIG)]
    command += ["--work-dir", str(run_dir), "--set", *small_overrides]
    command += [CHECKPOINTS, "resources.gpus_per_network=0"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    first = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(run_dir.glob("checkpoints/trial/checkpoint_*/state.json")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGTERM)
    printed, _ = first.communicate(timeout=120)
    assert first.returncode == 143, printed
    assert "stopped at iteration" in printed
    second = subprocess.run(
        [*command[:5], "--resume", *command[5:]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert second.returncode == 0, second.stdout + second.stderr
    assert "going on at iteration" in second.stdout
    assert "Last result" not in second.stdout, "Tune's own words"
    assert_equal_weights(final_weights(run_dir), expected)
