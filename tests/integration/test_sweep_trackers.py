"""A sweep that reports to MLflow (a database file) and to Weights & Biases (offline)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.sweep.launch import launch_sweep
from orchestrator.sweep.plan import SweepOptions, plan_sweep
from orchestrator.sweep.trackers import Trackers
from tests.support.runs import CONFIG
from tests.support.sweeps import add_space
from tune_spaces.space import Row

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the trackers' own
]


def test_mlflow_and_wandb(
    monkeypatch: pytest.MonkeyPatch,
    ray_session: Any,
    small_overrides: Sequence[str],
    tmp_path: Path,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow = pytest.importorskip("mlflow", reason="pip install 'colad[mlflow]'")
        pytest.importorskip("wandb", reason="pip install 'colad[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    rows = [Row(set={"assigner.reg_weight": weight}, paper={}) for weight in (0.5, 1.5)]
    add_space(monkeypatch, tuple(rows), base="colad")
    overrides = [*small_overrides, "evaluation.interval=4", "train.max_iterations=8"]
    options = SweepOptions(config=CONFIG, overrides=overrides, gpus_per_network=0)
    plan = plan_sweep("test", options)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    result = launch_sweep(
        plan,
        tmp_path / "sweep",
        resume=False,
        address=None,
        scheduler="none",
        concurrency=None,
        say=print,
        trackers=Trackers(mlflow=uri, wandb="colad-test"),
    )
    assert set(result.outcomes.values()) == {"finished"}
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("sweep")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == [trial.id for trial in plan.trials]
    weights = {run.data.params["trial/set/assigner.reg_weight"] for run in runs}
    assert weights == {"0.5", "1.5"}
    for run in runs:
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "AP")
        assert len(history) == 2
    assert len(list((tmp_path / "sweep").rglob("offline-run-*/*.wandb"))) == 2


@pytest.mark.parametrize(
    ("uri", "message"), [("http://127.0.0.1:9", "127.0.0.1"), ("nosql:///x.db", "nosql")]
)
def test_a_server_that_does_not_answer(uri: str, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mlflow", reason="pip install 'colad[mlflow]'")
    with pytest.raises(ConfigError, match=f"--mlflow .*cannot be used.*{message}"):
        Trackers(mlflow=uri).check()
