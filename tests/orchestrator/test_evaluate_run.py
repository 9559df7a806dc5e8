"""``colad eval``'s extras: VOC, size, speed, property map, backend."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from rich.console import Console
from torch import nn

from orchestrator import cli, evaluate_run, trainer
from orchestrator.complexity import Complexity, Speed, measure_complexity, measure_speed
from orchestrator.config_file import load_config
from orchestrator.errors import ConfigError, DataError
from orchestrator.evaluate_run import Extras, evaluate_target
from orchestrator.evaluation import evaluate_detections
from orchestrator.launcher import launch
from orchestrator.live_view import LiveView
from orchestrator.local_run import run_locally
from orchestrator.preflight import preflight
from orchestrator.property_metric import measure_property_map
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
        tmp_path / "run",
        extras=Extras(voc="11points", complexity=True, speed=True, errors=True),
    )
    report = reports["r18"]
    assert report.coco.metrics == pytest.approx(plain.coco.metrics, nan_ok=True)
    assert report.voc is not None and report.voc.mode == "11points"
    assert report.complexity is not None and report.complexity.input_hw == (64, 64)
    assert report.speed is not None and report.speed.num_images == 8
    lines = list(cli._extras_lines(reports, per_class=True))
    assert report.errors is not None
    assert report.errors.ap50 == pytest.approx(report.coco.metrics["AP50"])
    assert len(lines) == 5 and lines[0].startswith("r18: VOC mAP ")
    assert "circle " in lines[1] and "M parameters" in lines[2] and "images/s" in lines[3]
    assert lines[4].startswith("r18: AP50 lost by errors of class ")


# -- ALA's property map ---------------------------------------------------------------------------


class PropertyHead(nn.Module):
    """Gives the maps that it is told; its cells are 8 pixels wide."""

    objectness = "ipb"

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps, self.prior_generator = maps, SimpleNamespace(offset=0.5)

    def predict_property_map(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps[: len(x)]


def property_detector(maps: torch.Tensor) -> nn.Module:
    detector = nn.Module()
    detector.data_preprocessor = Preprocessor()
    detector.bbox_head = PropertyHead(maps)
    detector.extract_feat = lambda inputs: inputs
    return detector


def property_file(path: Path, annotations: list[dict[str, Any]], images: int = 1) -> Path:
    content = dict(
        images=[dict(id=index) for index in range(images)],
        categories=[dict(id=7, name="cat"), dict(id=9, name="dog")],
        annotations=[dict(image_id=0, iscrowd=0) | a for a in annotations],
    )
    path.write_text(json.dumps(content))
    return path


def test_property_map_is_compared_cell_by_cell(tmp_path: Path) -> None:
    """Images of 50 x 60 pixels: of 8 x 8 cells, 6 x 7 (centres below 50 and 60) are no padding."""
    file = property_file(
        tmp_path / "a.json",
        [
            dict(category_id=7, bbox=[0, 0, 16, 8]),  # two cells
            dict(category_id=7, bbox=[0, 16, 16, 8], iscrowd=1),  # two cells that do not count
            dict(category_id=9, bbox=[0, 32, 60, 8]),  # not a class
        ],
    )
    maps = torch.full((1, 2, 8, 8), 0.2)
    maps[:, 1] = 0.4
    maps[0, 0, 0, 1:3] = 0.6  # one cell of the box, one beside it
    maps[0, 0, 2, 0] = 0.9  # crowd
    maps[0, 0, 7] = 0.9  # padding
    maps[0, 1, 0, 2] = 0.55
    maps[0, 1, 5, 5] = 0.7
    detector = property_detector(maps)
    cells = 6 * 7 - 2
    larger = measure_property_map(detector, Images(1), file, ["cat"])
    assert larger.foreground == pytest.approx(100 / 3)
    assert larger.background == pytest.approx(100 * (cells - 3) / (cells - 1))
    half = measure_property_map(detector, Images(1), file, ["cat"], mode="half")
    assert half.foreground == pytest.approx(100 / 3)
    assert half.background == pytest.approx(100 * 2 / (cells - 2))
    assert (half.mode, half.num_images) == ("half", 1)


def test_property_map_sums_over_images_and_scales_boxes(tmp_path: Path) -> None:
    class Doubled(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            sample["data_samples"].set_metainfo(dict(scale_factor=(2.0, 1.0)))
            return sample

    box = dict(category_id=7, bbox=[0, 0, 8, 8])  # 16 x 8 pixels of the input: two cells
    file = property_file(tmp_path / "a.json", [box], images=3)
    maps = torch.zeros(3, 2, 8, 8)
    maps[:, 0, 0, :2] = 1.0
    found = measure_property_map(property_detector(maps), Doubled(3), file, ["cat"], batch_size=3)
    assert found.foreground == pytest.approx(100 * 2 / 6)
    assert found.background == pytest.approx(100 * (3 * 42 - 6) / (3 * 42 - 2))
    nothing = measure_property_map(
        property_detector(torch.zeros(3, 2, 8, 8)), Images(1), property_file(file, []), ["cat"]
    )
    assert math.isnan(nothing.foreground) and nothing.background == 100


def test_wrong_property_requests(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="property map 'best': expected one of larger, half"):
        Extras(property_map="best")
    with pytest.raises(DataError, match="no image to measure on"):
        measure_property_map(nn.Module(), Images(0), tmp_path, [])
    with pytest.raises(ConfigError, match="ALA's, and a, b has none: it needs a CoALAHead"):
        evaluate_run._check_property_maps(
            dict(a=TwoLayers(), b=TwoLayers()), Extras(property_map="half")
        )


@pytest.mark.parametrize("objectness", ["ipb", "none"])
def test_property_map_of_a_run(tmp_path: Path, objectness: str) -> None:
    small = [item for item in SMALL if not item.startswith("networks.r34")]
    fields = ["train.max_iterations=2", f"networks.r18.model.bbox_head.objectness={objectness}"]
    overrides = [f"data.root={tmp_path / 'shapes'}", *small, *fields]
    run_locally(load_config(ROOT / "configs/tiny/ala_shapes.py", overrides), tmp_path / "run")
    extras = Extras(property_map="larger")
    if objectness == "none":
        with pytest.raises(ConfigError, match="r18 has none"):
            evaluate_target(tmp_path / "run", extras=extras)
        return
    reports = evaluate_target(tmp_path / "run", extras=extras)
    result = reports["r18"].property_map
    assert result is not None and result.num_images == 8
    assert 0 <= result.foreground <= 100 and 0 <= result.background <= 100
    (line,) = cli._extras_lines(reports, per_class=False)
    assert line.startswith("r18: property map IoU ") and "(larger, 8 images)" in line


# -- the backend ----------------------------------------------------------------------------------


def test_backend_of_a_run_and_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [item for item in SMALL if not item.startswith("networks.r34")]
    overrides = [f"data.root={tmp_path / 'shapes'}", *small, "train.max_iterations=1"]
    config = load_config(ROOT / "configs/tiny/paa_shapes.py", overrides)
    run_locally(config, tmp_path / "run")
    used: list[str] = []

    def record(detections: Any, *args: Any, backend: str) -> Any:
        used.append(backend)
        return evaluate_detections(detections, *args)

    monkeypatch.setattr(evaluate_run, "evaluate_detections", record)
    monkeypatch.setattr(evaluate_run, "check_backend", lambda backend: None)
    evaluate_target(tmp_path / "run")
    evaluate_target(tmp_path / "run", overrides=["evaluation.backend=faster"])
    assert used == ["pycocotools", "faster"]


def test_a_missing_backend_is_found_before_time_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [f"data.root={tmp_path / 'shapes'}", *SMALL, "evaluation.backend=faster"]
    config = load_config(ROOT / "configs/tiny/colad_shapes.py", overrides)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "faster_coco_eval" else find_spec(name, *rest),
    )
    with pytest.raises(ConfigError, match="evaluation.backend=pycocotools"):
        view = LiveView(Console(quiet=True), title="run")
        launch(config, tmp_path / "run", resume=False, address=None, view=view)
    with pytest.raises(ConfigError, match="evaluation.backend=pycocotools"):
        list(preflight(config, tmp_path / "run", address=None))
    assert not (tmp_path / "run").exists() and not (tmp_path / "shapes").exists()


def test_a_run_evaluates_by_its_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [item for item in SMALL if not item.startswith("networks.r34")]
    fields = ["train.max_iterations=1", "evaluation.backend=faster"]
    overrides = [f"data.root={tmp_path / 'shapes'}", *small, *fields]
    used: list[str] = []

    def record(*args: Any, backend: str) -> Any:
        used.append(backend)
        return evaluate_detections(*args)

    monkeypatch.setattr(trainer, "evaluate_detections", record)
    monkeypatch.setattr(trainer, "check_backend", lambda backend: None)
    run_locally(load_config(ROOT / "configs/tiny/paa_shapes.py", overrides), tmp_path / "run")
    assert used == ["faster"]
