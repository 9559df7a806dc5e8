"""Tiny detectors of every family that can teach, as plain mmdet configurations."""

from __future__ import annotations

from typing import Any

import torch
from mmengine import ConfigDict
from torch import nn

CLASSES = 3
STRIDES = (8, 16, 32, 64, 128)
WIDTH = 16
GROUP_NORM = dict(type="GN", num_groups=2, requires_grad=True)
FOCAL = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
GIOU = dict(type="GIoULoss", loss_weight=1.0)
CODER = dict(
    type="DeltaXYWHBBoxCoder",
    target_means=[0.0, 0.0, 0.0, 0.0],
    target_stds=[0.1, 0.1, 0.2, 0.2],
)
QUALITY_FOCAL = dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0)
TEST = dict(
    nms_pre=1000,
    min_bbox_size=0,
    score_thr=0.05,
    nms=dict(type="nms", iou_threshold=0.6),
    max_per_img=100,
)

FAMILIES = (
    "ATSS",
    "GFL",
    "FCOS",
    "FCOS_norm",
    "TOOD",
    "TOOD_anchors",
    "VFNet",
    "RetinaNet",
    "RetinaNet_softmax",
    "PAA",
    "AutoAssign",
    "RTMDet",
    "RTMDet_sep",
)


def anchors(strides: tuple[int, ...]) -> dict[str, Any]:
    return dict(
        type="AnchorGenerator",
        ratios=[1.0],
        octave_base_scale=8,
        scales_per_octave=1,
        strides=list(strides),
    )


def head_config(family: str, levels: int = 5, **fields: Any) -> dict[str, Any]:
    """The ``bbox_head`` of a family; ``fields`` replace entries."""
    strides = STRIDES[:levels]
    kind = family.split("_")[0]
    common: dict[str, Any] = dict(
        type=f"{kind.removesuffix('Net') if kind == 'RetinaNet' else kind}Head",
        num_classes=CLASSES,
        in_channels=WIDTH,
        feat_channels=WIDTH,
        stacked_convs=2,
        norm_cfg=GROUP_NORM,
    )
    anchored = dict(anchor_generator=anchors(strides), bbox_coder=CODER)
    points = dict(strides=list(strides))
    binary = dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0)
    rtmdet: dict[str, Any] = dict(
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=list(strides)),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=QUALITY_FOCAL,
        loss_bbox=GIOU,
        norm_cfg=dict(type="BN"),
        act_cfg=dict(type="SiLU"),
    )
    own: dict[str, dict[str, Any]] = dict(
        ATSS=dict(**anchored, loss_cls=FOCAL, loss_bbox=GIOU, loss_centerness=binary),
        GFL=dict(anchor_generator=anchors(strides), loss_cls=QUALITY_FOCAL, reg_max=8),
        FCOS=points,
        FCOS_norm=dict(**points, norm_on_bbox=True, centerness_on_reg=True),
        TOOD=dict(**anchored, loss_cls={**QUALITY_FOCAL, "activated": True}),
        TOOD_anchors=dict(
            **anchored, loss_cls={**QUALITY_FOCAL, "activated": True}, anchor_type="anchor_based"
        ),
        VFNet=dict(**points, anchor_generator={**anchors(strides), "center_offset": 0.0}),
        RetinaNet=dict(**anchored, loss_cls=FOCAL),
        RetinaNet_softmax=dict(
            **anchored, loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False)
        ),
        PAA=dict(
            **anchored,
            loss_cls=FOCAL,
            loss_bbox=GIOU,
            loss_centerness=binary,
            reg_decoded_bbox=True,
            score_voting=False,
        ),
        AutoAssign=dict(**points, loss_bbox=dict(type="GIoULoss", loss_weight=5.0)),
        RTMDet=dict(**rtmdet, with_objectness=True),
        RTMDet_sep=dict(
            **rtmdet,
            type="RTMDetSepBNHead",
            with_objectness=False,
            exp_on_reg=True,
            share_conv=True,
        ),
    )
    return {**common, **own[family], **fields}


def detector_config(family: str, levels: int = 5, **head: Any) -> ConfigDict:
    """A whole detector with a narrow ResNet-18; ``head`` replaces entries of the head."""
    kind = family.split("_")[0]
    return ConfigDict(
        type=kind,
        data_preprocessor=dict(
            type="DetDataPreprocessor",
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type="ResNet",
            depth=18,
            base_channels=8,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            norm_cfg=dict(type="BN", requires_grad=True),
            norm_eval=False,
            style="pytorch",
        ),
        neck=dict(
            type="FPN",
            in_channels=[8, 16, 32, 64],
            out_channels=WIDTH,
            start_level=1,
            add_extra_convs="on_output",
            num_outs=levels,
        ),
        bbox_head=head_config(family, levels, **head),
        train_cfg=None,
        test_cfg=TEST,
    )


@torch.no_grad()
def randomise(module: nn.Module, *, seed: int = 0, spread: float = 0.2) -> None:
    """Weights and norm statistics of any detector, wide enough for scores and boxes to vary."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * spread + (1.0 if parameter.dim() <= 1 else 0.0) * spread)
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
