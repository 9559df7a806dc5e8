"""What a detector costs: parameters, multiply-adds, images per second."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.errors import DataError

WARM_UP = 3
"""Images before the clock starts: the first ones pay for lazy initialisation."""


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """Size of a detector, and arithmetic of its forward pass on one image."""

    parameters: int
    multiply_adds: int
    """Of convolutions and matrix products from the image to the head's raw outputs."""
    input_hw: tuple[int, int]
    """Padded height and width of that image."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Images per second, one at a time: preprocessing, forward, NMS; not decoding."""

    images_per_second: float
    num_images: int
    device: str
    threads: int


def measure_complexity(detector: nn.Module, dataset: Any) -> Complexity:
    """Count on the first image of an mmdet test dataset, as the run scales and pads it.

    Detection papers and mmdet call these multiply-adds FLOPs. Sampling, pooling, normalisation and
    activation are not counted, nor are mmcv's compiled deformable convolutions (our stand-in's are,
    being matrix products).

    Raises:
        DataError: the dataset is empty.
    """
    _require_images(dataset, "multiply-adds")
    model: Any = detector
    inputs = model.data_preprocessor(_as_batch(dataset[0]), training=False)["inputs"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.bbox_head(model.extract_feat(inputs))
    return Complexity(
        parameters=sum(parameter.numel() for parameter in detector.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        input_hw=(int(inputs.shape[-2]), int(inputs.shape[-1])),
    )


def measure_speed(
    detector: nn.Module, dataset: Any, device: torch.device, *, limit: int = 100
) -> Speed:
    """Time the detector on the first ``limit`` images of an mmdet test dataset.

    Raises:
        DataError: the dataset is empty.
    """
    _require_images(dataset, "images per second")
    count = min(limit, len(dataset))
    for _ in range(WARM_UP):
        _predict_seconds(detector, dataset[0], device)
    seconds = sum(_predict_seconds(detector, dataset[index], device) for index in range(count))
    return Speed(
        images_per_second=count / seconds,
        num_images=count,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        threads=torch.get_num_threads(),
    )


def _predict_seconds(detector: nn.Module, sample: Any, device: torch.device) -> float:
    model: Any = detector
    batch = _as_batch(sample)
    _synchronise(device)
    started = time.perf_counter()
    with torch.no_grad():
        processed = model.data_preprocessor(batch, training=False)
        model.predict(processed["inputs"], processed["data_samples"], rescale=True)
    _synchronise(device)
    return time.perf_counter() - started


def _as_batch(sample: Any) -> dict[str, list[Any]]:
    return dict(inputs=[sample["inputs"]], data_samples=[sample["data_samples"]])


def _require_images(dataset: Any, what: str) -> None:
    if len(dataset) == 0:
        raise DataError(f"{what}: the split has no image to measure on")


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
