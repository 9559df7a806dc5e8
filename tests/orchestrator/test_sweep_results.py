"""Tables, figures and the best configuration, from run directories made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator.config_file import load_config, save_config
from orchestrator.errors import ConfigError
from orchestrator.runlog import RunLog
from orchestrator.sweep.plan import SweepOptions, SweepPlan, plan_sweep
from orchestrator.sweep.results import report_sweep, spearman
from orchestrator.sweep.status import TrialStatus, read_status, write_status
from tests.support.sweeps import add_search, add_space
from tune_spaces.space import Range, Row

LINES = (
    Row(set={"assigner.mu": 3, "assigner.beta": 5}, paper={"AP": 40.8, "AP50": 59.1}),
    Row(set={"assigner.mu": 4, "assigner.beta": 5}, paper={"AP": 41.2, "AP50": None}),
    Row(set={"assigner.mu": 5, "assigner.beta": 5}, paper={"AP": 41.5, "AP50": 59.8}),
    Row(paper={"AP": 37.0, "AP50": 55.8}, skip="FCOS is not a method of this project"),
)


def write_sweep(folder: Path, plan: SweepPlan, finals: list[float | None]) -> None:
    """A sweep whose trials ended with these AP; None: failed."""
    for trial, final in zip(plan.trials, finals, strict=True):
        run_dir = folder / "trials" / trial.id
        run_dir.mkdir(parents=True)
        save_config(trial.config, run_dir / "config.py")
        if final is None:
            write_status(run_dir, TrialStatus(outcome="failed", reason="a\nNonFiniteLossError: b"))
            continue
        log = RunLog(run_dir)
        for iteration, ap in ((5, final / 2), (10, final)):
            row = dict(iteration=iteration, epoch=0, network="r18", split="val", seconds=1.0)
            log.log_evaluation([{**row, "AP": ap, "AP50": ap + 20, "AP75": ap}])
        log.close()
        write_status(run_dir, TrialStatus(outcome="finished", seconds=12.0))
    (folder / "sweep.json").write_text(json.dumps(plan.to_dict()))


def test_the_papers_table_with_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_space(monkeypatch, LINES)
    plan = plan_sweep("test", SweepOptions(seeds=2))
    write_sweep(tmp_path, plan, [30.0, 32.0, 33.0, 35.0, 34.0, None])
    report = report_sweep(tmp_path)
    lines = report.text.splitlines()
    assert "6 trials: 5 finished, 1 failed." in lines
    assert "| setting | AP paper | AP ours | AP50 paper | AP50 ours |" in lines
    assert "| mu = 3, beta = 5 | 40.8 | 31.0 +- 1.4 | 59.1 | 51.0 +- 1.4 |" in lines
    assert "| mu = 4, beta = 5 | 41.2 | 34.0 +- 1.4 | - | 54.0 +- 1.4 |" in lines
    assert "| mu = 5, beta = 5 | 41.5 | 34.0 | 59.8 | 54.0 |" in lines
    assert "| base [1] | 37.0 | - | 55.8 | - |" in lines
    assert "[1] FCOS is not a method of this project  " in lines
    # ours 31, 34, 34 have ranks 1, 2.5, 2.5 against 1, 2, 3
    assert "Rank agreement with the paper (Spearman, AP, 3 lines): 0.87." in lines
    assert f"- {plan.trials[5].id} failed: NonFiniteLossError: b" in lines
    frame = pd.read_parquet(report.results)
    assert len(frame) == 11 and frame["last"].sum() == 5
    assert set(frame.loc[frame["trial"] == plan.trials[5].id, "status"]) == {"failed"}
    assert frame.groupby("trial")["assigner.mu"].first().tolist() == [3, 3, 4, 4, 5, 5]


def test_the_best_configuration_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_space(monkeypatch, LINES)
    plan = plan_sweep("test", SweepOptions())
    write_sweep(tmp_path, plan, [30.0, 35.0, 34.0])
    report = report_sweep(tmp_path)
    assert report.best is not None
    assert load_config(report.best).digest() == plan.trials[1].config.digest()
    assert "AP 35.0" in report.best.read_text().splitlines()[0]


def test_figures_of_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_space(monkeypatch, LINES)
    write_sweep(tmp_path, plan_sweep("test", SweepOptions()), [30.0, 35.0, 34.0])
    names = {path.name for path in report_sweep(tmp_path).figures}
    assert names == {"learning_curves.png", "settings.png", "heat_map.png"}
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in names)


def test_a_search_is_listed_by_ap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_search(monkeypatch, {"assigner.mu": Range(low=3, high=8)})
    plan = plan_sweep("search", SweepOptions(samples=3))
    write_sweep(tmp_path, plan, [30.0, 35.0, None])
    report = report_sweep(tmp_path)
    rows = [line for line in report.text.splitlines() if line.startswith("| 000")]
    assert rows[0].startswith(f"| {plan.trials[1].id} ") and len(rows) == 2
    assert {p.name for p in report.figures} == {"learning_curves.png", "parallel_coordinates.png"}


def test_a_sweep_without_results_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_space(monkeypatch, LINES)
    plan = plan_sweep("test", SweepOptions())
    (tmp_path / "sweep.json").write_text(json.dumps(plan.to_dict()))
    report = report_sweep(tmp_path)
    assert "3 trials: 3 unfinished." in report.text
    assert report.best is None and not report.figures
    with pytest.raises(ConfigError, match="holds no sweep"):
        report_sweep(tmp_path / "elsewhere")


def test_status_survives(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    status = TrialStatus(outcome="failed", reason="because", seconds=1.5)
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status


def test_rank_agreement() -> None:
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert spearman([1, 2, 3], [30, 20, 10]) == pytest.approx(-1)
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 2, 3], [5, 5, 5]) is None
    generator = np.random.default_rng(0)
    assert abs(spearman(generator.random(500), generator.random(500)) or 1) < 0.15


def test_a_population_s_changes_are_in_the_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_search(monkeypatch, {"assigner.mu": Range(low=3, high=8)})
    plan = plan_sweep("search", SweepOptions(samples=2, population=True))
    write_sweep(tmp_path, plan, [30.0, 35.0])
    first, second = plan.trials
    mine, other = first.params["assigner.mu"], second.params["assigner.mu"]
    log = RunLog(tmp_path / "trials" / first.id)
    change = dict(
        iteration=5,
        source=second.id,
        before=json.dumps(first.params),
        source_params=json.dumps(second.params),
        params=json.dumps({"assigner.mu": 6.5}),
        waiting_seconds=1.0,
        restart_seconds=4.25,
        token="t",
    )
    log.log_change(change)
    row = dict(epoch=0, network="r18", split="val", seconds=1.0, AP50=50.0, AP75=40.0)
    log.log_evaluation([{**row, "iteration": 3, "AP": 10.0}, {**row, "iteration": 15, "AP": 44.0}])
    log.close()
    report = report_sweep(tmp_path)
    frame = pd.read_parquet(report.results)
    rows = frame[frame["trial"] == first.id].sort_values("iteration")
    # before the change, the other's weights as they came, and after it
    assert rows["assigner.mu"].tolist() == [mine, other, 6.5, 6.5]
    assert rows["source"].tolist() == ["", second.id, second.id, second.id]
    assert rows["restart_seconds"].tolist() == [0, 4.25, 4.25, 4.25]
    line = f"- {first.id} went on from {second.id} at iteration 5: assigner.mu "
    found = next(text for text in report.text.splitlines() if text.startswith(line))
    assert found.endswith("-> 6.5 (restart 4.2 s, waited 1.0 s)")
    assert report.best is not None
    assert f"went on from {second.id} at iteration 5" in report.best.read_text()
    load_config(report.best)
