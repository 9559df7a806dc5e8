"""Multi-scale testing is mmdet's, of any network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.config import DataConfig
from orchestrator.config_file import load_config
from orchestrator.datasets import build_dataset
from orchestrator.errors import ConfigError
from orchestrator.evaluate_run import Extras, evaluate_target
from orchestrator.evaluation import METRIC_NAMES
from orchestrator.local_run import run_locally
from orchestrator.multi_scale import augmented, parse_scales, predict_augmented
from orchestrator.prediction import predict_dataset
from orchestrator.saved_runs import SavedRun, open_run
from orchestrator.torch_state import evaluating
from tests.support.runs import ROOT, SMALL


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scales")
    fields = ["train.max_iterations=2", "networks.r18.model.test_cfg.score_thr=0.001"]
    small = [item for item in SMALL if not item.startswith("networks.r34")]
    overrides = [f"data.root={folder / 'shapes'}", *small, *fields]
    run_locally(load_config(ROOT / "configs/tiny/dw_shapes.py", overrides), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def saved(run_dir: Path) -> SavedRun:
    return open_run(run_dir)


def test_scales_are_read() -> None:
    assert parse_scales("1333x640, 64x32") == ((1333, 640), (64, 32))
    for wrong in ("", "800", "800x", "0x4", "1333x640,", "a"):
        with pytest.raises(ConfigError, match="expected sizes such as 1333x640"):
            parse_scales(wrong)


def test_views_are_all_scales_flipped_and_not(saved: SavedRun) -> None:
    data = augmented(saved.config.data, ((64, 64), (32, 32)))
    dataset = build_dataset(data, saved.data.val, saved.data.classes, train=False)
    views = dataset[0]
    shapes = [(s.img_shape[0], s.flip) for s in views["data_samples"]]
    assert sorted(shapes) == [(32, False), (32, True), (64, False), (64, True)]
    pixels = {shape: view for shape, view in zip(shapes, views["inputs"])}
    assert torch.equal(pixels[64, True], pixels[64, False].flip(-1))


def test_one_scale_gives_boxes_of_both_flips(saved: SavedRun) -> None:
    """With NMS at the detector's overlap, and boxes back in the image's own pixels."""
    detector, _ = saved.build("r18")
    plain = build_dataset(saved.config.data, saved.data.val, saved.data.classes, train=False)
    views = build_dataset(
        augmented(saved.config.data, ((64, 64),)), saved.data.val, saved.data.classes, train=False
    )
    with evaluating(detector):
        one = predict_dataset(detector, plain, batch_size=8, device=torch.device("cpu"))
        both = predict_augmented(detector, views)
    assert set(both.image_id) == set(one.image_id) and len(one)
    assert both.boxes.min() >= 0 and both.boxes.max() <= 64
    kept = {(i, c, s) for i, c, s in zip(one.image_id, one.category, one.score.round(5))}
    found = {(i, c, s) for i, c, s in zip(both.image_id, both.category, both.score.round(5))}
    best = {image: one.score[one.image_id == image].max().round(5) for image in set(one.image_id)}
    assert kept & found  # the views that are not flipped
    for image, score in best.items():
        assert both.score[both.image_id == image].max().round(5) >= score


def test_colad_eval(run_dir: Path) -> None:
    report = evaluate_target(run_dir, extras=Extras(scales=((64, 64), (96, 96))))["r18"]
    assert set(report.coco.metrics) == set(METRIC_NAMES)
    assert np.isfinite(report.coco.metrics["AP"]) and report.coco.num_images == 8


def test_a_pipeline_without_a_place_for_the_scales() -> None:
    data = DataConfig(root="r", test_pipeline=[dict(type="LoadImageFromFile")])
    with pytest.raises(ConfigError, match="has 0 Resize transforms"):
        augmented(data, ((64, 64),))
