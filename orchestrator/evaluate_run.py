"""``colad eval``: COCO and VOC metrics, size and speed of saved networks, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.building import build_detector, import_custom
from orchestrator.complexity import Complexity, Speed, measure_complexity, measure_speed
from orchestrator.config import DataConfig, NetworkConfig, from_mapping, parse_overrides
from orchestrator.data import coco
from orchestrator.datasets import PreparedData, Split, build_dataset
from orchestrator.errors import CheckpointError, ConfigError
from orchestrator.evaluation import EvalResult, evaluate_detections
from orchestrator.prediction import predict_dataset
from orchestrator.saved_runs import open_run
from orchestrator.torch_state import evaluating
from orchestrator.voc_metric import VocResult, check_voc_mode, evaluate_voc
from orchestrator.weights import class_names_of, load_weights

BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What to measure besides COCO's metrics."""

    voc: str | None = None
    """``"area"`` or ``"11points"``: VOC's mAP at IoU 0.5."""
    complexity: bool = False
    """Parameters and multiply-adds."""
    speed: bool = False
    """Images per second, one at a time."""

    def __post_init__(self) -> None:
        if self.voc is not None:
            check_voc_mode(self.voc)


@dataclass(frozen=True, kw_only=True)
class NetworkReport:
    """What was measured of one network; None for what was not asked for."""

    coco: EvalResult
    voc: VocResult | None = None
    complexity: Complexity | None = None
    speed: Speed | None = None


def evaluate_target(
    target: Path,
    *,
    split: str = "val",
    config: Path | None = None,
    network: str | None = None,
    overrides: Sequence[str] = (),
    extras: Extras = Extras(),
) -> dict[str, NetworkReport]:
    """Evaluate a run directory, a checkpoint in one, or an mmdet .pth.

    Args:
        target: what to evaluate.
        split: ``val``, ``train``, or the path of a COCO file (with ``data.images`` overridden if
            its images lie elsewhere).
        config: mmdet configuration of a .pth; None takes ``config.py`` beside it.
        network: only this one; None takes all.
        overrides: ``data.*=value``: another scale, other images.
        extras: what else to measure.

    Returns:
        By network name (a .pth: by its file name).

    Raises:
        CheckpointError, ConfigError, DataError: naming what to correct.
    """
    if target.is_file():
        return _evaluate_file(target, split, config, overrides, extras)
    saved = open_run(target)
    data = _override_data(saved.config.data, overrides)
    chosen = _choose_split(split, data, saved.data)
    names = [network] if network is not None else list(saved.config.networks)
    results = {}
    for name in names:
        detector, _ = saved.build(name)
        results[name] = _evaluate(detector, data, chosen, saved.data.classes, extras)
    return results


def _evaluate_file(
    target: Path, split: str, config: Path | None, overrides: Sequence[str], extras: Extras
) -> dict[str, NetworkReport]:
    from mmengine.config import Config

    config = config or target.parent / "config.py"
    if not config.is_file():
        raise ConfigError(f"{config}: no such file; give the mmdet configuration with --config")
    classes = class_names_of(load_weights(target))
    if not classes:
        raise CheckpointError(f"{target} does not name its classes (meta.dataset_meta.classes)")
    dataset: Any = Config.fromfile(config, import_custom_modules=False).test_dataloader.dataset
    images = str(Path(dataset.get("data_root", "")) / dataset.data_prefix.img)
    annotations = str(Path(dataset.get("data_root", "")) / dataset.ann_file)
    data = DataConfig(root=images, test_pipeline=list(dataset.pipeline))
    data = _override_data(data, overrides)
    if split == "train":
        raise ConfigError("--split train of a .pth: give the COCO file itself")
    if split != "val":
        chosen = _own_split(split, data)
    else:
        chosen = Split(annotations=annotations, images=images, num_images=0, num_boxes=0)
    import_custom(())
    settings = NetworkConfig(config=str(config), checkpoint=str(target))
    detector, _ = build_detector(target.stem, settings, len(classes), seed=0)
    return {target.stem: _evaluate(detector, data, chosen, classes, extras)}


def _override_data(data: DataConfig, overrides: Sequence[str]) -> DataConfig:
    parsed = parse_overrides(overrides)
    for key in parsed:
        if not key.startswith("data."):
            raise ConfigError(f"--set {key}: colad eval takes data.* fields only")
    plain = {**vars(data), **{key[5:]: value for key, value in parsed.items()}}
    return from_mapping(DataConfig, plain, "data")


def _choose_split(split: str, data: DataConfig, prepared: PreparedData) -> Split:
    known = {"val": prepared.val, "train": prepared.train}
    return known[split] if split in known else _own_split(split, data)


def _own_split(split: str, data: DataConfig) -> Split:
    file = Path(split)
    if not file.is_file():
        raise ConfigError(f"--split {split}: neither val nor train nor a file")
    images = coco.resolve_image_root(file.parent, file, data.images)
    return Split(annotations=str(file), images=str(images), num_images=0, num_boxes=0)


def _evaluate(
    detector: nn.Module, data: DataConfig, split: Split, classes: Sequence[str], extras: Extras
) -> NetworkReport:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = build_dataset(data, split, classes, train=False)
    annotations = Path(split.annotations)
    detector.to(device)
    with evaluating(detector):
        detections = predict_dataset(detector, dataset, batch_size=BATCH, device=device)
        complexity = measure_complexity(detector, dataset) if extras.complexity else None
        speed = measure_speed(detector, dataset, device) if extras.speed else None
    voc = None
    if extras.voc is not None:
        voc = evaluate_voc(detections, annotations, classes, mode=extras.voc)
    return NetworkReport(
        coco=evaluate_detections(detections, annotations, classes),
        voc=voc,
        complexity=complexity,
        speed=speed,
    )
