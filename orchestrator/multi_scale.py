"""Multi-scale testing: mmdet's test-time augmentation of a trained network."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from orchestrator.config import DataConfig
from orchestrator.datasets import build_pipeline
from orchestrator.errors import ConfigError
from orchestrator.evaluation import Detections
from orchestrator.prediction import detections_of

LARGEST_SIDE = 10_000
"""Pixels: far beyond what detectors are tested at, and what memory still holds."""
META_KEYS = (
    "img_id",
    "img_path",
    "ori_shape",
    "img_shape",
    "scale_factor",
    "flip",
    "flip_direction",
)


def parse_scales(text: str) -> tuple[tuple[int, int], ...]:
    """``"1333x640,1333x800"`` -> ((1333, 640), (1333, 800)), each (longer, shorter) side.

    Raises:
        ConfigError: anything else.
    """
    items = [item.strip() for item in text.split(",")]
    matches = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", item) for item in items]
    scales = tuple((int(match[1]), int(match[2])) for match in matches if match is not None)
    if len(scales) < len(items):
        raise ConfigError(f"scales {text!r}: expected sizes such as 1333x640,1333x800")
    if max(map(max, scales)) > LARGEST_SIDE:
        raise ConfigError(f"scales {text!r}: a side has at most {LARGEST_SIDE} pixels")
    return scales


def augmented(data: DataConfig, scales: Sequence[tuple[int, int]]) -> DataConfig:
    """``data`` with a test pipeline that gives every image in all ``scales``, each flipped and not.

    Raises:
        ConfigError: the test pipeline has not exactly one Resize in whose place the scales go.
    """
    pipeline = copy.deepcopy(build_pipeline(data, train=False))
    places = [index for index, entry in enumerate(pipeline) if entry.get("type") == "Resize"]
    if len(places) != 1:
        raise ConfigError(
            f"data.test_pipeline has {len(places)} Resize transforms: several scales need exactly "
            "one, which they replace"
        )
    (place,) = places
    rest = [entry for entry in pipeline[place + 1 :] if entry.get("type") != "RandomFlip"]
    if rest and rest[-1].get("type") == "PackDetInputs":
        rest[-1]["meta_keys"] = META_KEYS
    augmentation = dict(
        type="TestTimeAug",
        transforms=[
            [{**pipeline[place], "scale": scale} for scale in scales],
            [dict(type="RandomFlip", prob=prob) for prob in (0.0, 1.0)],
            *([entry] for entry in rest),
        ],
    )
    return replace(data, test_pipeline=[*pipeline[:place], augmentation])


def predict_augmented(detector: nn.Module, dataset: Any) -> Detections:
    """Detections in original pixels, one image at a time: those of all its views, after NMS.

    The detector must be in eval mode. NMS and the number of boxes are those of its ``test_cfg``.

    Args:
        dataset: of a configuration that ``augmented`` made.

    Source:
        mmdet's ``DetTTAModel``.
    """
    from mmdet.models.test_time_augs import DetTTAModel

    trained: Any = detector
    model = DetTTAModel(tta_cfg=trained.test_cfg, module=detector)
    parts: list[Detections] = []
    for index in range(len(dataset)):
        views = dataset[index]
        batches = {key: [[view] for view in value] for key, value in views.items()}
        with torch.no_grad():
            parts += map(detections_of, model.test_step(batches))
    return Detections.concatenate(parts)
