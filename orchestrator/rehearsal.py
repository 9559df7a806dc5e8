"""One small image through a detector: parts that do not fit together show before they cost."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.errors import ModelError
from orchestrator.torch_state import evaluating

SIDE = 64
"""Pixels; every stride of the usual detectors leaves at least one location of it."""


def rehearse(name: str, detector: nn.Module, device: torch.device) -> None:
    """Forward pass of a black image, in eval mode; the detector's state is as before.

    Args:
        name: of the network.
        detector: mmdet's, on ``device``.
        device: where to make the image.

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
