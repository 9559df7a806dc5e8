"""Heads, outputs and GTs for the tests of point-based heads.

``python point_cases.py TYPE RANK STORE OUT`` is one of two ranks of a network whose head is of that
type: it saves the losses of that rank's image.
"""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from typing import Any

import torch
from mmengine import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

CLASSES = 3
SIZE = (128, 160)
LEVELS = [(16, 20), (8, 10), (4, 5)]
BOXES = ([[10, 12, 75, 80], [70, 30, 150, 110]], [], [[40, 20, 90, 100]])
LABELS = ([0, 2], [], [1])


def build_head(head_type: str, **fields: Any) -> Any:
    """A narrow head with three levels."""
    from mmdet.registry import MODELS

    import models  # noqa: F401, registers the heads

    config: dict[str, Any] = dict(
        type=head_type,
        num_classes=CLASSES,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        norm_cfg=dict(type="GN", num_groups=2, requires_grad=True),
        strides=[8, 16, 32],
        test_cfg=ConfigDict(
            nms_pre=1000,
            min_bbox_size=0,
            score_thr=0.05,
            nms=dict(type="nms", iou_threshold=0.6),
            max_per_img=100,
        ),
    )
    torch.manual_seed(0)
    return MODELS.build({**config, **fields})


def make_metas(count: int) -> list[dict[str, Any]]:
    return [dict(img_shape=SIZE, pad_shape=SIZE) for _ in range(count)]


def make_instances(images: list[int]) -> list[InstanceData]:
    return [
        InstanceData(
            bboxes=torch.tensor(BOXES[i], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(LABELS[i], dtype=torch.int64),
        )
        for i in images
    ]


def make_features(images: list[int]) -> list[Tensor]:
    """Feature maps of 8 channels; image i has the same in every batch."""
    levels = []
    for index, (height, width) in enumerate(LEVELS):
        seeds = [torch.Generator().manual_seed(100 * image + index) for image in images]
        maps = [torch.randn(8, height, width, generator=seed) for seed in seeds]
        levels.append(torch.stack(maps))
    return levels


def rank_losses(head_type: str, images: list[int]) -> dict[str, Tensor]:
    """Losses of self-assignment of these images on this rank."""
    head = build_head(head_type)
    head.init_weights()
    outs = head(make_features(images))
    losses = head.loss_by_feat(*outs, make_instances(images), make_metas(len(images)), None)
    return {name: value.detach() for name, value in losses.items()}


def run_rank(head_type: str, rank: int, store: str) -> dict[str, Tensor]:
    """Join two ranks that meet in the file ``store``; the losses of image ``rank``."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        timeout=timedelta(seconds=120),
        rank=rank,
        world_size=2,
    )
    try:
        return rank_losses(head_type, [rank])
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.save(run_rank(sys.argv[1], int(sys.argv[2]), sys.argv[3]), sys.argv[4])
