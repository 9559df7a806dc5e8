"""Detections of a detector on a dataset split, in original image pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from orchestrator.evaluation import Detections


def predict_dataset(
    detector: nn.Module,
    dataset: Any,
    *,
    batch_size: int,
    device: torch.device,
    shard: int = 0,
    num_shards: int = 1,
) -> Detections:
    """Detections on images ``shard``, ``shard + num_shards``, ... of an mmdet test dataset.

    The detector must be in eval mode. Boxes are rescaled to the original images.
    """
    model: Any = detector
    indices = range(shard, len(dataset), num_shards)
    parts: list[Detections] = []
    for start in range(0, len(indices), batch_size):
        samples = [dataset[i] for i in indices[start : start + batch_size]]
        data = dict(
            inputs=[sample["inputs"] for sample in samples],
            data_samples=[sample["data_samples"] for sample in samples],
        )
        processed = model.data_preprocessor(data, training=False)
        with torch.no_grad():
            results = model.predict(processed["inputs"], processed["data_samples"], rescale=True)
        parts.extend(detections_of(result) for result in results)
    return Detections.concatenate(parts)


def detections_of(result: Any) -> Detections:
    """What one mmdet data sample says was found in its image."""
    found = result.pred_instances
    count = len(found.scores)
    return Detections(
        image_id=np.full(count, result.img_id, dtype=np.int64),
        category=found.labels.cpu().numpy().astype(np.int64),
        score=found.scores.float().cpu().numpy(),
        boxes=found.bboxes.float().cpu().numpy().reshape(-1, 4),
    )
