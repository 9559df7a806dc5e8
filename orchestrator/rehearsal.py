"""One small image through a detector: parts that do not fit together show before they cost."""

from __future__ import annotations

import copy
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.errors import ModelError
from orchestrator.torch_state import evaluating

SIDE = 64
"""Pixels; every stride of the usual detectors leaves at least one location of it."""


def rehearse(name: str, detector: nn.Module, device: torch.device, *, predicts: bool) -> None:
    """Forward pass of a black image, in eval mode; the detector's state is as before.

    Args:
        name: of the network.
        detector: mmdet's, on ``device``.
        device: where to make the image.
        predicts: also turn what the head says into detections, as an evaluation will.

    Raises:
        ModelError: a part of the detector refuses what the one before it gives.
    """
    parts: Any = detector
    try:
        with evaluating(detector):
            parts.bbox_head(parts.extract_feat(torch.zeros(1, 3, SIDE, SIDE, device=device)))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a part of mmdet, or of the user, stumbles over
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}: {last.line}"
        raise ModelError(
            f"networks.{name}.model builds but does not run: {type(error).__name__} "
            f"{str(error).strip()[:300]} ({where}); do backbone, neck and head agree in channels "
            "and levels?"
        ) from error
    if predicts:
        _rehearse_prediction(name, parts, device)


def _rehearse_prediction(name: str, parts: Any, device: torch.device) -> None:
    from mmdet.structures import DetDataSample

    shape = (SIDE, SIDE)
    metas = dict(img_id=0, img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    image = torch.zeros(3, *shape, dtype=torch.uint8, device=device)
    field = "data_preprocessor"
    try:
        with evaluating(parts):
            given = dict(inputs=[image], data_samples=[DetDataSample(metainfo=metas)])
            data = parts.data_preprocessor(given, training=False)
            if not bool(torch.isfinite(data["inputs"]).all()):
                raise ValueError("the pixels become NaN or infinite")
            outs = parts.bbox_head(parts.extract_feat(data["inputs"]))
            field = "test_cfg"
            cfg = copy.deepcopy(parts.bbox_head.test_cfg)
            cfg.score_thr = -1.0  # so that NMS has something to do
            shapes = [sample.metainfo for sample in data["data_samples"]]
            parts.bbox_head.predict_by_feat(*outs, batch_img_metas=shapes, cfg=cfg, rescale=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # as above
        raise ModelError(
            f"networks.{name}.model.{field}: no prediction can be made with it: "
            f"{type(error).__name__} {str(error).strip()[:300]}"
        ) from error
