"""The run log survives long runs, kills and resumes, and pandas and TensorBoard read it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from orchestrator.errors import CheckpointError
from orchestrator.evaluation import METRIC_NAMES, Detections
from orchestrator.runlog import (
    RunLog,
    read_detections,
    read_log,
    write_detections,
    write_environment,
)


def _log(log: RunLog, iterations: range, value: float = 1.0, **more: Any) -> None:
    for iteration in iterations:
        for network in ("r50", "r101"):
            log.log_iteration(
                dict(
                    iteration=iteration,
                    epoch=iteration // 10,
                    network=network,
                    lr=0.1,
                    loss_cls=value,
                    num_pos=3,
                    skipped=False,
                    **more,
                )
            )


def _evaluation(iteration: int, ap: float) -> dict[str, Any]:
    numbers = dict.fromkeys(METRIC_NAMES, ap)
    return dict(iteration=iteration, epoch=0, network="r50", split="val", seconds=1.5) | numbers


def _parts(run: Path, name: str = "iterations") -> list[str]:
    return sorted(os.listdir(run / f"{name}.parquet"))


def test_rows_are_read_again_by_pandas_alone(tmp_path: Path) -> None:
    log = RunLog(tmp_path, flush_every=20)
    _log(log, range(50))
    log.log_evaluation([_evaluation(24, 10.0), _evaluation(49, 20.0) | {"AP_L": float("nan")}])
    log.close()
    frame = pd.read_parquet(tmp_path / "iterations.parquet")
    assert len(frame) == 100
    assert frame["iteration"].tolist() == [i for i in range(50) for _ in range(2)]
    assert frame["iteration"].dtype == frame["epoch"].dtype == np.int64
    assert frame["num_pos"].dtype == frame["skipped"].dtype == np.float64
    assert frame["network"].tolist() == ["r50", "r101"] * 50
    pd.testing.assert_frame_equal(frame, read_log(tmp_path, "iterations"))
    evaluations = read_log(tmp_path, "evaluations")
    assert evaluations["AP"].tolist() == [10.0, 20.0]
    assert np.isnan(evaluations["AP_L"].iloc[1])
    assert evaluations["split"].tolist() == ["val", "val"]
    assert _parts(tmp_path) == [
        f"part-{first:09d}-00000{n}.parquet" for n, first in enumerate((0, 20, 40))
    ]


def test_nothing_logged_is_an_empty_frame(tmp_path: Path) -> None:
    RunLog(tmp_path).close()
    assert len(read_log(tmp_path, "evaluations")) == 0
    assert not (tmp_path / "tensorboard").exists()
    with pytest.raises(ValueError, match="log 'losses'"):
        read_log(tmp_path, "losses")


def test_flush_writes_what_is_before_the_iteration(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    _log(log, range(10))
    log.flush(6)
    assert read_log(tmp_path, "iterations")["iteration"].max() == 5
    log.flush(10)
    assert read_log(tmp_path, "iterations")["iteration"].max() == 9
    before = _parts(tmp_path)
    log.flush(10)
    assert _parts(tmp_path) == before


def test_columns_may_appear_and_be_empty(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    _log(log, range(2), note="x")
    log.flush()
    _log(log, range(2, 4), loss_ipb=0.5, note=None)
    log.flush()
    _log(log, range(4, 6), value=7)  # an int where floats were
    log.close()
    frame = read_log(tmp_path, "iterations")
    assert frame["loss_ipb"].isna().tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert frame["loss_cls"].dtype == np.float64
    assert frame["note"].dropna().tolist() == ["x"] * 4
    assert len(pd.read_parquet(tmp_path / "iterations.parquet")) == 12


@pytest.mark.parametrize("cut", [0, 1, 7, 10, 15, 29, 30, 99])
def test_truncate_drops_from_the_iteration_on(tmp_path: Path, cut: int) -> None:
    log = RunLog(tmp_path, flush_every=10)
    _log(log, range(30))
    log.log_evaluation([_evaluation(9, 1.0), _evaluation(19, 2.0), _evaluation(29, 3.0)])
    log.close()
    (tmp_path / "iterations.parquet" / ".part-000000020-000002.parquet.tmp").write_bytes(b"half")

    log = RunLog(tmp_path, flush_every=10)
    log.truncate(cut)
    assert not any(name.endswith(".tmp") for name in _parts(tmp_path))
    kept = sorted(set(read_log(tmp_path, "iterations")["iteration"]))
    assert kept == list(range(min(cut, 30)))
    assert read_log(tmp_path, "evaluations")["iteration"].tolist() == [
        i for i in (9, 19, 29) if i < cut
    ]
    _log(log, range(cut, cut + 15), value=2.0)
    log.close()
    frame = read_log(tmp_path, "iterations")
    assert frame["iteration"].is_monotonic_increasing
    assert not frame.duplicated(["iteration", "network"]).any()
    assert (frame[frame["iteration"] >= cut]["loss_cls"] == 2.0).all()
    assert set(frame[frame["iteration"] < cut]["loss_cls"]) <= {1.0}
    assert len(pd.read_parquet(tmp_path / "iterations.parquet")) == len(frame)


def test_truncate_forgets_rows_not_written_yet(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    _log(log, range(10))
    log.log_assignments({"iteration": np.arange(10), "cost": np.ones(10, np.float32)})
    log.truncate(4)
    log.close()
    assert read_log(tmp_path, "iterations")["iteration"].max() == 3
    assert read_log(tmp_path, "assignments")["iteration"].tolist() == [0, 1, 2, 3]


def test_a_failed_rewrite_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path)
    _log(log, range(10))
    log.close()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log = RunLog(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="No space left"):
        log.truncate(5)
    assert len(pd.read_parquet(tmp_path / "iterations.parquet")) == 20
    monkeypatch.undo()
    log.truncate(5)
    assert len(read_log(tmp_path, "iterations")) == 10


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    _log(log, range(10))
    log.close()
    log = RunLog(tmp_path)
    part = tmp_path / "iterations.parquet" / "part-000000000-000000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"part-000000000-000000\.parquet: cannot be read"):
        log.truncate(5)
    with pytest.raises(CheckpointError, match=r"part-000000000-000000\.parquet: cannot be read"):
        RunLog(tmp_path)


def test_assignments_keep_their_columns(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for iteration in (0, 100):
        log.log_assignments(
            {
                "iteration": np.full(3, iteration),
                "learner": np.full(3, "r50"),
                "gt": np.arange(3, dtype=np.int32),
                "cost": np.array([0.5, 0.25, 2], np.float32),
                "positive": np.array([True, False, True]),
            }
        )
    log.log_assignments({"iteration": np.zeros(0, np.int64), "gt": np.zeros(0, np.int64)})
    log.flush(100)
    assert read_log(tmp_path, "assignments")["iteration"].tolist() == [0, 0, 0]
    log.close()
    frame = pd.read_parquet(tmp_path / "assignments.parquet")
    assert frame["iteration"].tolist() == [0] * 3 + [100] * 3
    assert frame["cost"].tolist() == [0.5, 0.25, 2] * 2
    assert frame["positive"].dtype == bool and frame["gt"].dtype == np.int64
    assert set(frame["learner"]) == {"r50"}


def test_memory_stays_flat(tmp_path: Path) -> None:
    log = RunLog(tmp_path, flush_every=50)
    _log(log, range(1000))
    assert len(_parts(tmp_path)) == 19
    assert sum(map(len, log._rows.values())) <= 100
    rows = [pq.read_metadata(p).num_rows for p in (tmp_path / "iterations.parquet").iterdir()]
    assert set(rows) == {100}
    log.close()


def _scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_shows_the_run_that_counts(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    _log(log, range(6), taught_r50=0.25)
    log.log_evaluation([_evaluation(5, 12.0) | {"AP_L": float("nan")}])
    log.close()
    assert _scalars(tmp_path, "taught_r50/r101") == [(i, 0.25) for i in range(6)]
    assert _scalars(tmp_path, "AP/r50") == [(5, 12.0)]

    log = RunLog(tmp_path)  # the process died; training goes on from the checkpoint at 3
    log.truncate(3)
    _log(log, range(3, 5), value=2.0)
    log.close()
    assert _scalars(tmp_path, "loss_cls/r50") == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)]
    assert len(os.listdir(tmp_path / "tensorboard")) == 2


def test_environment_holds_versions_and_nothing_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("COLAD_TEST_SECRET", "hunter2")
    command = ["/home/someone/.venv/bin/colad", "train", "data.root=/home/someone/data", "/home/s"]
    write_environment(tmp_path / "run", command)
    text = (tmp_path / "run" / "environment.json").read_text()
    environment = json.loads(text)
    assert environment["versions"]["torch"] == __import__("torch").__version__
    assert {"numpy", "pyarrow", "ray"} <= set(environment["versions"])
    assert environment["command"] == ["colad", "train", "data.root=~/data", "/home/s"]
    assert environment["cpu_count"] == os.cpu_count()
    assert isinstance(environment["gpus"], list)
    assert "hunter2" not in text and "someone" not in text
    assert os.listdir(tmp_path / "run") == ["environment.json"]


def test_detections_come_back_with_their_iteration(tmp_path: Path) -> None:
    assert read_detections(tmp_path, "r18") is None
    found = Detections(
        image_id=np.array([7, 9]),
        category=np.array([0, 2]),
        score=np.array([0.5, 0.25], np.float32),
        boxes=np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.float32),
    )
    write_detections(tmp_path, "r18", found, 300)
    write_detections(tmp_path, "r18", found, 600)
    again = read_detections(tmp_path, "r18")
    assert again is not None and again[1] == 600
    for name in ("image_id", "category", "score", "boxes"):
        np.testing.assert_array_equal(getattr(again[0], name), getattr(found, name))
    (tmp_path / "detections" / "r18.parquet").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="r18.parquet"):
        read_detections(tmp_path, "r18")


def test_a_change_stays_when_training_goes_on_from_it(tmp_path: Path) -> None:
    assert not (tmp_path / "changes.parquet").exists()
    log = RunLog(tmp_path)
    log.log_change(dict(iteration=4, source="a", params='{"x": 1}', restart_seconds=2.5))
    log.close()
    log = RunLog(tmp_path)
    log.log_change(dict(iteration=8, source="b", params='{"x": 2}', restart_seconds=3.5))
    log.truncate(8)
    assert read_log(tmp_path, "changes")["source"].tolist() == ["a", "b"]
    log.truncate(4)
    assert read_log(tmp_path, "changes")["source"].tolist() == ["a"]
    log.close()


def test_hyper_parameters_are_named_to_tensorboard(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    log = RunLog(tmp_path)
    log.log_hyper_parameters({"assigner.mu": 3.5, "switch.scope": "gt", "x": None}, ["r18"])
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    contents = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(contents).session_start_info
    assert start.hparams["assigner.mu"].number_value == 3.5
    assert start.hparams["switch.scope"].string_value == "gt"
    assert start.hparams["x"].string_value == "None"
    contents = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(contents).experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == ["AP/r18"]
