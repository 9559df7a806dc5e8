"""Heads, outputs and GTs for the tests of ``CoPAAHead``.

``python head_cases.py RANK STORE OUT`` is one of two ranks of a network: it saves the losses of
that rank's image.
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


def head_config(**fields: Any) -> dict[str, Any]:
    """mmdet's PAA head, narrow and with three levels; ``fields`` replace entries."""
    config: dict[str, Any] = dict(
        num_classes=CLASSES,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        norm_cfg=dict(type="GN", num_groups=2, requires_grad=True),
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=1.3),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=0.5),
        train_cfg=ConfigDict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.1,
                neg_iou_thr=0.1,
                min_pos_iou=0,
                ignore_iof_thr=-1,
            ),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
    )
    config.update(fields)
    return config


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


def make_outputs(images: list[int], *, seed: int = 0) -> tuple[list[Tensor], ...]:
    """Random class, box and IoU maps; image i has the same maps in every batch. Leaves."""
    maps: list[list[Tensor]] = []
    for channels, spread, centre in ((CLASSES, 1.0, -1.5), (4, 0.7, 0.0), (1, 1.0, 0.0)):
        levels = []
        for index, (height, width) in enumerate(LEVELS):
            parts = []
            for image in images:
                seeds = torch.Generator().manual_seed(1000 * seed + 100 * image + 10 * index)
                parts.append(torch.randn(channels, height, width, generator=seeds))
            levels.append((torch.stack(parts) * spread + centre).requires_grad_())
        maps.append(levels)
    return tuple(maps)


def rank_losses(images: list[int]) -> dict[str, Tensor]:
    """Self-assignment and taught losses of these images on this rank."""
    from models.co_head import ground_truths
    from models.paa_head import CoPAAHead

    head = CoPAAHead(**head_config())
    outs = make_outputs(images)
    priors = head.build_priors(LEVELS, make_metas(len(images)), "cpu")
    gts = ground_truths(make_instances(images), make_metas(len(images)), "cpu")
    predictions = head.dense_predictions(outs, priors)
    assigner = head.own_assigner
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    assignment = assigner.assign(table, candidates, priors, gts, num_classes=CLASSES)
    losses = {}
    for taught in (False, True):
        values = head.loss_from_assignment(
            predictions, outs, assignment, priors, gts, taught=taught
        )
        losses.update({f"{name}_taught={taught}": v.detach() for name, v in values.items()})
    return losses


def run_rank(rank: int, store: str) -> dict[str, Tensor]:
    """Join two ranks that meet in the file ``store``; the losses of image ``rank``."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        timeout=timedelta(seconds=120),
        rank=rank,
        world_size=2,
    )
    try:
        return rank_losses([rank])
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.save(run_rank(int(sys.argv[1]), sys.argv[2]), sys.argv[3])
