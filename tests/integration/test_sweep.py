"""Whole sweeps on a small Ray: failures, schedulers, kills, resumption."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.sweep.launch import SweepResult, launch_sweep
from orchestrator.sweep.layout import trial_dir
from orchestrator.sweep.plan import SweepOptions, SweepPlan, plan_sweep
from orchestrator.sweep.results import report_sweep
from orchestrator.sweep.status import read_status
from tests.support.runs import ROOT, assert_equal_weights, final_weights, processes
from tests.support.sweeps import add_space
from tune_spaces.space import Row

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = ROOT / "configs" / "tiny" / "colad_shapes.py"
ROWS = tuple(
    Row(set={"assigner.reg_weight": weight}, paper={"AP": 40.0 + weight})
    for weight in (0.5, 1.0, 1.3)
)
Sweep = Callable[..., SweepResult]


@pytest.fixture
def options(small_overrides: Sequence[str]) -> SweepOptions:
    overrides = [*small_overrides, "evaluation.interval=4", "train.max_iterations=8"]
    return SweepOptions(config=CONFIG, overrides=overrides)


@pytest.fixture
def sweep(ray_session: Any, tmp_path: Path) -> Sweep:
    """Launch a plan in ``tmp_path / "sweep"``; its lines go to ``sweep.lines``."""

    def launch(plan: SweepPlan, **changes: Any) -> SweepResult:
        lines: list[str] = changes.pop("lines", [])
        given = dict(resume=False, address=None, scheduler="none", concurrency=2, say=lines.append)
        return launch_sweep(plan, tmp_path / "sweep", **{**given, **changes})

    return launch


def test_a_failing_trial_is_recorded_and_the_sweep_goes_on(
    monkeypatch: pytest.MonkeyPatch, sweep: Sweep, options: SweepOptions
) -> None:
    broken = Row(set={"train.optimizer": {"type": "Adamm"}}, paper={"AP": 1.0})
    add_space(monkeypatch, (*ROWS[:1], broken, *ROWS[1:2]), base="colad")
    plan = plan_sweep("test", options)
    lines: list[str] = []
    result = sweep(plan, lines=lines)
    assert [result.outcomes[trial.id] for trial in plan.trials] == [
        "finished",
        "failed",
        "finished",
    ]
    status = read_status(trial_dir(result.sweep_dir, plan.trials[1].id))
    assert status is not None and "Adamm" in status.reason
    assert len(lines) == 3 and sum("failed" in line for line in lines) == 1
    report = report_sweep(result.sweep_dir)
    assert "3 trials: 2 finished, 1 failed." in report.text and report.best is not None


def test_finished_trials_are_not_run_again(
    monkeypatch: pytest.MonkeyPatch, sweep: Sweep, options: SweepOptions
) -> None:
    add_space(monkeypatch, ROWS[:2], base="colad")
    plan = plan_sweep("test", options)
    first = sweep(plan)
    folders = [trial_dir(first.sweep_dir, trial.id) for trial in plan.trials]
    before = [(f / "processes.json").stat().st_mtime_ns for f in folders]
    assert set(sweep(plan, resume=True).outcomes.values()) == {"finished"}
    assert [(f / "processes.json").stat().st_mtime_ns for f in folders] == before
    with pytest.raises(ConfigError, match="--resume goes on with it"):
        sweep(plan)
    other = plan_sweep("test", dataclasses.replace(options, seeds=2))
    with pytest.raises(ConfigError, match="other settings"):
        sweep(other, resume=True)


def test_asha_stops_trials_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, sweep: Sweep, options: SweepOptions
) -> None:
    rates = (2e-3, 1e-9, 1e-9)
    rows = [
        Row(set={"train.optimizer.lr": rate, "train.optimizer.eps": 1e-8 * (n + 1)}, paper={})
        for n, rate in enumerate(rates)
    ]
    add_space(monkeypatch, tuple(rows), base="colad")
    overrides = [*options.overrides, "evaluation.interval=10", "train.max_iterations=20"]
    plan = plan_sweep("test", dataclasses.replace(options, overrides=overrides))
    result = sweep(plan, scheduler="asha", concurrency=1)
    assert result.outcomes[plan.trials[0].id] == "finished"
    stopped = [t for t in plan.trials if result.outcomes[t.id] == "stopped"]
    assert stopped
    pids = [
        process["pid"]
        for trial in stopped
        for ranks in processes(trial_dir(result.sweep_dir, trial.id))["networks"].values()
        for process in ranks
    ]
    deadline = time.monotonic() + 30
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return "ray::" in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False


def test_killed_launcher(tmp_path: Path, small_overrides: Sequence[str]) -> None:
    """kill -9 of launcher and controllers mid-sweep; --resume ends with undisturbed weights."""
    overrides = [*small_overrides, "evaluation.interval=10", "train.max_iterations=20"]
    command = [
        *(sys.executable, "-m", "orchestrator.cli", "tune", "paa-search", "--samples", "2"),
        *("--config", str(CONFIG), "--concurrency", "1"),
        *(word for item in overrides for word in ("--set", item)),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(ROOT)

    def run(folder: Path, *more: str) -> subprocess.Popen[bytes]:
        words = [*command, "--work-dir", str(folder), *more]
        with (tmp_path / f"{folder.name}{len(more)}.log").open("wb") as log:
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=tmp_path)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole).wait(timeout=300) == 0
    launcher = run(broken)
    second = sorted(p.name for p in (whole / "trials").iterdir())[1]
    _wait_for(lambda: any((broken / "trials" / second / "checkpoints").glob("checkpoint_*")))
    controller = processes(broken / "trials" / second)["controller"]["pid"]
    for pid in (launcher.pid, controller):
        os.kill(pid, signal.SIGKILL)
    launcher.wait(timeout=30)
    first = broken / "trials" / sorted(p.name for p in (whole / "trials").iterdir())[0]
    before = (first / "trial.json").stat().st_mtime_ns
    assert run(broken, "--resume").wait(timeout=300) == 0
    assert (first / "trial.json").stat().st_mtime_ns == before
    for trial in (whole / "trials").iterdir():
        assert_equal_weights(final_weights(trial), final_weights(broken / "trials" / trial.name))
    frame = report_sweep(broken)
    assert "2 trials: 2 finished." in frame.text


def _wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
