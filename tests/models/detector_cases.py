"""Two images and a detector for the tests of presets."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn


def make_sample(boxes: list[list[float]], labels: list[int]) -> DetDataSample:
    """An annotated 96 x 96 image."""
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
    )
    sample.set_metainfo(
        dict(img_shape=(96, 96), pad_shape=(96, 96), ori_shape=(96, 96), scale_factor=(1.0, 1.0))
    )
    return sample


def two_images() -> tuple[Tensor, list[DetDataSample]]:
    """Two dark images with one bright rectangle each."""
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 0.1
    images[0, 0, 10:60, 20:70] += 2.0
    images[1, 1, 30:90, 5:60] += 2.0
    return images, [make_sample([[20, 10, 70, 60]], [0]), make_sample([[5, 30, 60, 90]], [1])]


def build_detector(config: Any) -> nn.Module:
    """In train mode, with weights of seed 0."""
    torch.manual_seed(0)
    detector = MODELS.build(config)
    detector.init_weights()
    return detector.train()


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def overfit(detector: nn.Module, iterations: int, lr: float = 0.01) -> list[float]:
    """Train on the two images; the trace of total losses."""
    optimizer = torch.optim.SGD(detector.parameters(), lr=lr, momentum=0.9)
    images, samples = two_images()
    trace = []
    for _ in range(iterations):
        loss = total(detector.loss(images, samples))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        trace.append(float(loss.detach()))
    return trace
