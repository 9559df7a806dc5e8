"""Small detectors that train from scratch on a CPU, as mmdet configurations.

They have the shape of mmdet's PAA configuration with everything narrowed; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mmengine import ConfigDict

STRIDES = (8, 16, 32, 64, 128)
FEATURES = 32


def tiny_paa(num_classes: int, *, depth: int = 18, base_channels: int = 16) -> ConfigDict:
    """A narrow PAA detector; arguments as for ``tiny_detector``."""
    train_cfg = dict(
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
    )
    return tiny_detector(
        "PAA",
        _paa_head(num_classes),
        train_cfg=train_cfg,
        depth=depth,
        base_channels=base_channels,
    )


def tiny_point(
    num_classes: int, *, head: str, depth: int = 18, base_channels: int = 16, **fields: Any
) -> ConfigDict:
    """A narrow detector with one of our point-based heads.

    Args:
        num_classes: C.
        head: type of the head, ``"CoDWHead"`` for example.
        depth: as for ``tiny_detector``.
        base_channels: as for ``tiny_detector``.
        fields: further fields of the head.
    """
    bbox_head = dict(
        type=head,
        num_classes=num_classes,
        in_channels=FEATURES,
        stacked_convs=2,  # mmdet: 4
        feat_channels=FEATURES,
        strides=list(STRIDES),
        norm_cfg=_group_norm(),
        **fields,
    )
    return tiny_detector("FCOS", bbox_head, depth=depth, base_channels=base_channels)


def tiny_detector(
    detector: str,
    bbox_head: dict[str, Any],
    *,
    train_cfg: dict[str, Any] | None = None,
    depth: int = 18,
    base_channels: int = 16,
) -> ConfigDict:
    """A narrow single-stage detector with a ResNet-18 or -34.

    Args:
        detector: mmdet's type of the whole, ``"PAA"`` or ``"FCOS"`` for example.
        bbox_head: configuration of the head, which reads ``FEATURES`` channels at ``STRIDES``.
        train_cfg: of the detector.
        depth: of the ResNet: 18 or 34 (basic blocks).
        base_channels: width of its first stage; mmdet's own is 64.

    Returns:
        A configuration for ``MODELS.build``.
    """
    if depth not in (18, 34):
        raise ValueError(f"tiny_detector: depth must be 18 or 34, got {depth}")
    widths = [base_channels * 2**stage for stage in range(4)]
    model = dict(
        type=detector,
        data_preprocessor=dict(
            type="DetDataPreprocessor",
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type="ResNet",
            depth=depth,
            base_channels=base_channels,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            frozen_stages=-1,
            norm_cfg=dict(type="BN", requires_grad=True),
            norm_eval=False,
            style="pytorch",
        ),
        neck=dict(
            type="FPN",
            in_channels=widths,
            out_channels=FEATURES,
            start_level=1,
            add_extra_convs="on_output",
            num_outs=len(STRIDES),
        ),
        bbox_head=bbox_head,
        train_cfg=train_cfg,
        test_cfg=dict(
            nms_pre=1000,
            min_bbox_size=0,
            score_thr=0.05,
            nms=dict(type="nms", iou_threshold=0.6),
            max_per_img=100,
        ),
    )
    return ConfigDict(model)  # mmdet reads test_cfg by attribute


def _group_norm() -> dict[str, Any]:
    """mmdet's 32 groups of 256 channels: groups of 8 channels, which is 4 groups here."""
    return dict(type="GN", num_groups=FEATURES // 8, requires_grad=True)


def _paa_head(num_classes: int) -> dict[str, Any]:
    return dict(
        type="CoPAAHead",
        reg_decoded_bbox=True,
        score_voting=True,
        topk=9,
        num_classes=num_classes,
        in_channels=FEATURES,
        stacked_convs=2,  # mmdet: 4
        feat_channels=FEATURES,
        norm_cfg=_group_norm(),
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=list(STRIDES),
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=1.3),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=0.5),
    )


PRESETS: dict[str, Callable[[int], ConfigDict]] = {
    "tiny_r18": partial(tiny_paa, depth=18, base_channels=16),
    "tiny_r34": partial(tiny_paa, depth=34, base_channels=16),
    "tiny_r18_wide": partial(tiny_paa, depth=18, base_channels=24),
    "tiny_dw_r18": partial(tiny_point, head="CoDWHead", depth=18),
    "tiny_dw_tood_r18": partial(tiny_point, head="CoDWTOODHead", depth=18),
    "tiny_dw_r34": partial(tiny_point, head="CoDWHead", depth=34),
    "tiny_ala_r18": partial(tiny_point, head="CoALAHead", depth=18),
    "tiny_ala_r34": partial(tiny_point, head="CoALAHead", depth=34),
    "tiny_autoassign_r18": partial(tiny_point, head="CoAutoAssignHead", depth=18),
    "tiny_autoassign_r34": partial(tiny_point, head="CoAutoAssignHead", depth=34),
    "tiny_musu_r18": partial(tiny_point, head="CoMuSuHead", depth=18),
    "tiny_musu_r34": partial(tiny_point, head="CoMuSuHead", depth=34),
}
"""Detectors by name, as functions of the number of classes; those of one method share a grid."""
