"""``colad eval``'s extras: VOC, size and speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch import nn

from orchestrator import cli
from orchestrator.complexity import Complexity, Speed, measure_complexity, measure_speed
from orchestrator.config import load_config
from orchestrator.errors import ConfigError, DataError
from orchestrator.evaluate_run import Extras, evaluate_target
from orchestrator.local_run import run_locally
from tests.models.teacher_cases import detector_config
from tests.support.runs import ROOT, SMALL

pytestmark = pytest.mark.filterwarnings("ignore:DeprecationWarning. `num_anchors`:UserWarning")


class Images:
    """A test dataset of noise."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        meta = dict(img_shape=(50, 60), ori_shape=(50, 60), scale_factor=(1.0, 1.0), img_id=index)
        inputs = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
        return dict(inputs=inputs, data_samples=DetDataSample(metainfo=meta))


class Preprocessor(nn.Module):
    def forward(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        return dict(inputs=torch.stack(data["inputs"]).float(), data_samples=data["data_samples"])


class TwoLayers(nn.Module):
    """A 3 x 3 convolution from 3 to 8 channels, then a matrix product per location."""

    def __init__(self) -> None:
        super().__init__()
        self.data_preprocessor = Preprocessor()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bbox_head = nn.Linear(8, 5, bias=False)

    def extract_feat(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.conv(inputs).flatten(2).transpose(1, 2)


def test_counts_are_those_of_the_formula() -> None:
    counted = measure_complexity(TwoLayers(), Images(1))
    assert counted == Complexity(
        parameters=3 * 8 * 9 + 8 * 5,
        multiply_adds=50 * 60 * (3 * 8 * 9 + 8 * 5),
        input_hw=(50, 60),
    )


@pytest.mark.parametrize("family", ["ATSS", "TOOD", "VFNet"])
def test_detectors_are_counted_on_the_padded_image(family: str) -> None:
    """ATSS is convolutions alone; the others have products and deformable convolutions besides."""
    detector = MODELS.build(detector_config(family)).eval()
    convolutions = []

    def count(layer: nn.Conv2d, inputs: Any, output: torch.Tensor) -> None:
        convolutions.append(output.numel() * layer.weight[0].numel())

    for module in detector.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    counted = measure_complexity(detector, Images(1))
    assert counted.input_hw == (64, 64)
    assert counted.parameters == sum(p.numel() for p in detector.parameters())
    if family == "ATSS":
        assert counted.multiply_adds == sum(convolutions)
    else:
        assert counted.multiply_adds > sum(convolutions)


def test_speed() -> None:
    detector = MODELS.build(detector_config("ATSS")).eval()
    speed = measure_speed(detector, Images(5), torch.device("cpu"), limit=2)
    assert isinstance(speed, Speed)
    assert (speed.num_images, speed.device, speed.threads) == (2, "CPU", torch.get_num_threads())
    assert 0 < speed.images_per_second < 10_000


def test_an_empty_split_is_an_error() -> None:
    with pytest.raises(DataError, match="no image to measure on"):
        measure_complexity(TwoLayers(), Images(0))
    with pytest.raises(DataError, match="no image to measure on"):
        measure_speed(TwoLayers(), Images(0), torch.device("cpu"))


def test_unknown_voc_mode_is_refused_before_evaluating() -> None:
    with pytest.raises(ConfigError, match="VOC mode 'best'"):
        Extras(voc="best")


def test_extras_of_a_run(tmp_path: Path) -> None:
    small = [item for item in SMALL if not item.startswith("networks.r34")]
    overrides = [f"data.root={tmp_path / 'shapes'}", *small, "train.max_iterations=2"]
    run_locally(load_config(ROOT / "configs/tiny/paa_shapes.py", overrides), tmp_path / "run")
    plain = evaluate_target(tmp_path / "run")["r18"]
    assert (plain.voc, plain.complexity, plain.speed) == (None, None, None)
    reports = evaluate_target(
        tmp_path / "run", extras=Extras(voc="11points", complexity=True, speed=True)
    )
    report = reports["r18"]
    assert report.coco.metrics == pytest.approx(plain.coco.metrics, nan_ok=True)
    assert report.voc is not None and report.voc.mode == "11points"
    assert report.complexity is not None and report.complexity.input_hw == (64, 64)
    assert report.speed is not None and report.speed.num_images == 8
    lines = list(cli._extras_lines(reports, per_class=True))
    assert len(lines) == 4 and lines[0].startswith("r18: VOC mAP ")
    assert "circle " in lines[1] and "M parameters" in lines[2] and "images/s" in lines[3]
