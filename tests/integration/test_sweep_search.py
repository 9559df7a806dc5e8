"""Sweeps that decide while they run: Optuna's proposals, a population."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config_file import load_config
from orchestrator.runlog import read_log
from orchestrator.sweep.launch import SweepResult, launch_sweep
from orchestrator.sweep.layout import trial_dir
from orchestrator.sweep.plan import SweepOptions, SweepPlan, plan_sweep
from orchestrator.sweep.population import current_params, last_change
from orchestrator.sweep.results import report_sweep
from tests.support.runs import ROOT
from tests.support.sweeps import add_search
from tune_spaces.space import Choice, Range

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = ROOT / "configs" / "tiny" / "colad_shapes.py"
DOMAINS = {
    "assigner.reg_weight": Range(low=0.5, high=3.0, log=True),
    "assigner.topk": Choice(values=(5, 9, 12)),
}
Sweep = Callable[..., SweepResult]


@pytest.fixture
def options(small_overrides: Sequence[str]) -> SweepOptions:
    overrides = [*small_overrides, "evaluation.interval=4", "train.max_iterations=8"]
    return SweepOptions(config=CONFIG, overrides=overrides, samples=3, gpus_per_network=0)


@pytest.fixture
def sweep(ray_session: Any, tmp_path: Path) -> Sweep:
    def launch(plan: SweepPlan, **changes: Any) -> SweepResult:
        given = dict(resume=False, address=None, scheduler="none", concurrency=None, say=print)
        return launch_sweep(plan, tmp_path / "sweep", **{**given, **changes})

    return launch


def test_optuna_goes_on_after_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, sweep: Sweep, options: SweepOptions
) -> None:
    add_search(monkeypatch, DOMAINS, base="colad")
    plan = plan_sweep("search", dataclasses.replace(options, search="optuna"))

    def stop_at_the_first(line: str) -> None:
        if line.startswith("1/3"):
            os.kill(os.getpid(), signal.SIGINT)

    first = sweep(plan, concurrency=1, say=stop_at_the_first)
    assert first.interrupted and sorted(first.outcomes.values())[0] == "finished"
    before = json.loads((first.sweep_dir / "sweep.json").read_text())["trials"]
    assert before[0]["params"] == {"assigner.reg_weight": 1.3, "assigner.topk": 9}
    ended = trial_dir(first.sweep_dir, before[0]["id"]) / "trial.json"
    stamp = ended.stat().st_mtime_ns
    again = sweep(plan, concurrency=1, resume=True)
    assert list(again.outcomes.values()) == ["finished"] * 3
    assert ended.stat().st_mtime_ns == stamp
    after = json.loads((first.sweep_dir / "sweep.json").read_text())["trials"]
    assert after[: len(before)] == before and len(after) == 3
    for trial in after:
        config = load_config(trial_dir(first.sweep_dir, trial["id"]) / "config.py")
        assert config.assigner["topk"] == trial["params"]["assigner.topk"]
        assert 0.5 <= config.assigner["reg_weight"] <= 3.0
    assert report_sweep(first.sweep_dir).text.count("| finished |") == 3


def test_a_population_changes_while_it_trains(
    monkeypatch: pytest.MonkeyPatch, sweep: Sweep, options: SweepOptions
) -> None:
    add_search(monkeypatch, DOMAINS, base="colad")
    iterations = 40  # enough that both members run at the same time, however late one starts
    overrides = [
        *options.overrides,
        "evaluation.interval=10",
        f"train.max_iterations={iterations}",
    ]
    plan = plan_sweep(
        "search", dataclasses.replace(options, overrides=overrides, population=True, samples=2)
    )
    result = sweep(plan, scheduler="pbt")
    assert list(result.outcomes.values()) == ["finished"] * 2
    changed = []
    for trial in plan.trials:
        run_dir = trial_dir(result.sweep_dir, trial.id)
        log = read_log(run_dir, "changes")
        changed += log.to_dict("records")
        config = load_config(run_dir / "config.py")
        assert config.assigner["topk"] == current_params(run_dir)["assigner.topk"]
        change = last_change(run_dir)
        if change is None:
            continue
        assert log["iteration"].iloc[-1] == change.iteration
        assert config.assigner["reg_weight"] == change.params["assigner.reg_weight"]
        # its own until the change, none of those that only the other trial did, all since
        done = read_log(run_dir, "iterations")["iteration"].tolist()[::2]
        assert done == sorted(set(done))
        assert done[0] == 0 and set(range(change.iteration, iterations)) <= set(done)
    assert changed, "nobody took over"
    for row in changed:
        assert 0 < row["restart_seconds"] < 120 and row["waiting_seconds"] >= 0
    frame = report_sweep(result.sweep_dir)
    assert "restart" in frame.text
