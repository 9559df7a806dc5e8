"""One training batch as it lies in the object store: plain numpy arrays, read zero-copy by all.

Images are unpadded uint8, each with its own shape: every network normalises and then pads them with
its own preprocessor (padding first would change the numbers and the valid flags).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assigners.types import GroundTruths

META_KEYS = (
    "img_id",
    "img_path",
    "ori_shape",
    "img_shape",
    "scale_factor",
    "flip",
    "flip_direction",
)

# The arrays are views of shared memory. They are only read (the preprocessor's `.float()` copies),
# so torch's caution about writing to a read-only array does not apply.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images and GTs of one micro-batch of one shard."""

    batch_id: str
    """``epoch.position.shard``; equal on all networks that read the batch."""
    pixels: np.ndarray
    """(sum of C*H*W,) uint8, the images one after the other."""
    shapes: np.ndarray
    """(B, 3) int64, (C, H, W) of each image."""
    boxes: np.ndarray
    """(G, 4) float32 xyxy in pixels of the unpadded image."""
    labels: np.ndarray
    """(G,) int64."""
    counts: np.ndarray
    """(B,) int64 GTs per image."""
    metas: list[dict[str, Any]]
    """mmdet's meta information of each image, plain values only."""

    @property
    def num_images(self) -> int:
        return len(self.counts)

    @property
    def image_ids(self) -> list[int]:
        return [meta["img_id"] for meta in self.metas]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays (the object store adds some hundred for the rest)."""
        arrays = (self.pixels, self.shapes, self.boxes, self.labels, self.counts)
        return sum(array.nbytes for array in arrays)


def pack_samples(samples: Sequence[dict[str, Any]], batch_id: str) -> Batch:
    """Batch of mmdet samples as ``PackDetInputs`` leaves them (``inputs`` and ``data_samples``)."""
    images = [sample["inputs"].contiguous().numpy() for sample in samples]
    instances = [sample["data_samples"].gt_instances for sample in samples]
    boxes = [_plain_boxes(instance.bboxes) for instance in instances]
    labels = [np.asarray(instance.labels, dtype=np.int64).reshape(-1) for instance in instances]
    return Batch(
        batch_id=batch_id,
        pixels=np.concatenate([image.reshape(-1) for image in images]),
        shapes=np.array([image.shape for image in images], dtype=np.int64),
        boxes=np.concatenate(boxes).astype(np.float32, copy=False),
        labels=np.concatenate(labels),
        counts=np.array([len(b) for b in boxes], dtype=np.int64),
        metas=[_plain_meta(sample["data_samples"].metainfo) for sample in samples],
    )


def _plain_boxes(boxes: Any) -> np.ndarray:
    tensor: Tensor = getattr(boxes, "tensor", boxes)
    return tensor.reshape(-1, 4).float().numpy()


def _plain_meta(meta: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, (np.ndarray, tuple, list)):
            return tuple(plain(item) for item in value)
        return value.item() if isinstance(value, np.generic) else value

    return {key: plain(meta[key]) for key in META_KEYS if key in meta}


def unpack_images(batch: Batch) -> list[Tensor]:
    """The images as (C, H, W) uint8 tensors that share the batch's memory; only read them."""
    ends = np.cumsum(batch.shapes.prod(axis=1))
    starts = ends - batch.shapes.prod(axis=1)
    return [
        torch.from_numpy(batch.pixels[start:end]).view(*(int(n) for n in shape))
        for start, end, shape in zip(starts, ends, batch.shapes)
    ]


def unpack_gts(batch: Batch, device: torch.device) -> GroundTruths:
    """The GTs on ``device``."""
    counts = torch.from_numpy(batch.counts)
    return GroundTruths(
        boxes=torch.from_numpy(batch.boxes).to(device),
        labels=torch.from_numpy(batch.labels).to(device),
        image=torch.repeat_interleave(torch.arange(len(counts)), counts).to(device),
        counts=tuple(int(n) for n in batch.counts),
        image_shapes=torch.from_numpy(batch.shapes[:, 1:].astype(np.float32)).to(device),
    )
