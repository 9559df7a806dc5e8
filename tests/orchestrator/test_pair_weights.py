"""Weights of pairs in one form for all methods, and the samples of them in the run log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.config_file import load_config
from orchestrator.local_run import run_locally
from orchestrator.runlog import read_detections, read_log
from tests.support.runs import ROOT, SMALL

ONE = [item for item in SMALL if "r34" not in item]


@pytest.mark.parametrize("method", ["paa", "dw", "autoassign", "ala", "musu"])
def test_samples_hold_weights_and_sizes(method: str, tmp_path: Path) -> None:
    overrides = [*ONE, f"data.root={tmp_path / 'shapes'}", "train.max_iterations=2"]
    config = load_config(ROOT / "configs" / "tiny" / f"{method}_shapes.py", overrides)
    run_locally(config, tmp_path / "run")
    sample = read_log(tmp_path / "run", "assignments")
    assert set(sample["iteration"]) == {0, 1}, "None: 40 samples over the run, one each at most"
    assert (sample["gt_area"] > 0).all() and set(sample["gt_label"]) <= {0, 1, 2, 3, 4}
    assert len(sample["image_id"].unique()) > 1, "all images of the batch fit"
    assert np.isfinite(sample[["pos_weight", "neg_weight"]]).all().all()
    assert sample["pos_weight"].max() > 0
    if method == "paa":
        assert (sample["positive"] == (sample["pos_weight"] == 1)).all()
    if method == "autoassign":  # w+ is normalised over the pairs of a GT
        totals = sample.groupby(["iteration", "gt"])["pos_weight"].sum()
        np.testing.assert_allclose(totals, 1, rtol=1e-4)
    kept = read_detections(tmp_path / "run", "r18")
    assert kept is not None and kept[1] == 2
