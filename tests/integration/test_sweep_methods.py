"""One 2 x 2 grid per method, run to its end: what a sweep writes, whatever it sweeps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.config_file import load_config
from orchestrator.runlog import read_log
from orchestrator.sweep.launch import launch_sweep
from orchestrator.sweep.layout import trial_dir
from orchestrator.sweep.plan import SweepOptions, plan_sweep
from orchestrator.sweep.results import report_sweep
from tests.support.sweeps import add_space
from tune_spaces.space import Row

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "paa": {"assigner.topk": (5, 9), "assigner.reg_weight": (1.0, 1.3)},
    "colad": {"switch.criterion": ("std_mean", "fisher"), "assigner.topk": (5, 9)},
    "dw": {"assigner.beta": (4, 5), "assigner.mu": (4, 5)},
    "autoassign": {"assigner.tau": (0.33, 0.5), "assigner.lambda_": (3.0, 5.0)},
    "ala": {"assigner.alpha": (0.6, 0.8), "assigner.beta": (0.3, 0.5)},
    "musu": {"assigner.alpha": (0.5, 1.0), "assigner.theta": (3.0, 4.0)},
}
COMMON = (
    "data.shapes={'train': 8, 'val': 4, 'size': 64}",
    "data.scale=[64, 64]",
    "train.batch_size=2",
    "evaluation.interval=None",
)


def narrow(networks: Sequence[str]) -> list[str]:
    """Overrides that make the tiny networks tinier."""
    return [
        item
        for name in networks
        for item in (
            f"networks.{name}.model.backbone.base_channels=8",
            f"networks.{name}.model.backbone.depth=18",
            f"networks.{name}.model.neck.in_channels=[8, 16, 32, 64]",
        )
    ]


@pytest.mark.parametrize("method", GRIDS)
def test_a_grid_of_every_method(
    method: str, monkeypatch: pytest.MonkeyPatch, ray_session: Any, tmp_path: Path
) -> None:
    fields = GRIDS[method]
    cells = [dict(zip(fields, values)) for values in itertools.product(*fields.values())]
    rows = tuple(Row(set=cell, paper={"AP": 40.0 + n}) for n, cell in enumerate(cells))
    add_space(monkeypatch, rows, base=method)
    networks = ["r18", *(["r34"] if method == "colad" else [])]
    overrides = [f"data.root={tmp_path / 'shapes'}", *COMMON, *narrow(networks)]
    options = SweepOptions(overrides=overrides, max_iterations=2, gpus_per_network=0)
    plan = plan_sweep("test", options)
    result = launch_sweep(
        plan,
        tmp_path / "sweep",
        resume=False,
        address=None,
        scheduler="none",
        concurrency=None,
        say=print,
    )
    assert list(result.outcomes.values()) == ["finished"] * 4
    report = report_sweep(result.sweep_dir)
    frame = pd.read_parquet(report.results)
    learners = plan.trials[0].config.learners
    assert len(frame) == 4 * len(learners) and frame["last"].all()
    assert sorted(frame["trial"].unique()) == [trial.id for trial in plan.trials]
    assert set(frame["status"]) == {"finished"} and set(frame["iteration"]) == {2}
    found = frame.drop_duplicates("trial")[list(fields)].to_dict("records")
    assert found == cells
    for trial in plan.trials:
        run_dir = trial_dir(result.sweep_dir, trial.id)
        assert load_config(run_dir / "config.py").digest() == trial.config.digest()
        assert len(read_log(run_dir, "iterations")) == 2 * len(learners)
    assert report.table.read_text(encoding="utf-8").count("| 4") == 4  # the paper's figures
    assert report.best is not None
    best = load_config(report.best)
    assert best.digest() in {trial.config.digest() for trial in plan.trials}
    names = {path.name for path in report.figures}
    assert {"learning_curves.png", "settings.png"} <= names
    numbers = all(not isinstance(values[0], str) for values in fields.values())
    assert ("heat_map.png" in names) == numbers
    assert all(path.stat().st_size > 5000 for path in report.figures)
