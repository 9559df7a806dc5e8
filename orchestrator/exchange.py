"""What crosses between networks: one network's costs for one batch, as numpy, through Ray's store.

Pair indices do not travel: they follow from geometry, so both sides have them already, and a digest
proves that they are the same. With soft labels the network's outputs go along, classes and quality
as float16: every reader sees the cast values, in this process as in actors. Transport is the object
store; another one would be added here.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from assigners.types import Candidates, CostTable, DensePredictions
from orchestrator.errors import CandidateMismatchError, NonFiniteCostError


@dataclass(frozen=True, kw_only=True)
class PackedSoft:
    """One network's outputs for all priors of a batch, on the host."""

    cls: np.ndarray
    """(B, A, C) float16 logits, or probabilities where ``cls_is_prob``."""
    cls_is_prob: bool
    boxes: np.ndarray
    """(B, A, 4) float32 xyxy, not clipped."""
    quality: np.ndarray | None
    """(B, A) float16 logits, or None."""
    quality_kind: str
    finite: bool
    """Whether all values were finite before the cast: found on the sender's device."""

    @property
    def payload_bytes(self) -> int:
        quality = 0 if self.quality is None else self.quality.nbytes
        return self.cls.nbytes + self.boxes.nbytes + quality


@dataclass(frozen=True, kw_only=True)
class PackedTable:
    """A ``CostTable`` on the host with its guards. Row order is that of ``Candidates``."""

    network: str
    batch_id: str
    candidates_digest: str
    cost: np.ndarray
    """(N,) float32."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """(N,) float32 each."""
    soft: PackedSoft | None = None
    """The network's outputs, where the run has soft labels."""

    @property
    def payload_bytes(self) -> int:
        soft = 0 if self.soft is None else self.soft.payload_bytes
        return self.cost.nbytes + sum(column.nbytes for column in self.columns.values()) + soft


def candidates_digest(candidates: Candidates) -> str:
    """Digest of the pairs; equal on all networks whose prior grids and batches agree.

    Cost: one copy of 2 N integers to the host. Only taken where tables cross.
    """
    pairs = torch.stack((candidates.gt, candidates.prior)).to(torch.int32).cpu().numpy()
    return hashlib.blake2b(pairs.tobytes(), digest_size=12).hexdigest()


def pack(
    table: CostTable,
    *,
    network: str,
    batch_id: str,
    digest: str,
    soft: DensePredictions | None = None,
) -> PackedTable:
    """The table on the host: one device-to-host copy of all its columns, detached.

    Args:
        soft: the network's predictions, where others distil from them; three more copies.
    """
    names = tuple(table.columns)
    rows = torch.stack([table.cost, *(table.columns[name] for name in names)])
    host = rows.detach().to(torch.float32).cpu().numpy()  # (1 + columns, N)
    return PackedTable(
        network=network,
        batch_id=batch_id,
        candidates_digest=digest,
        cost=host[0],
        columns={name: host[i + 1] for i, name in enumerate(names)},
        soft=None if soft is None else _pack_soft(soft),
    )


def _pack_soft(predictions: DensePredictions) -> PackedSoft:
    cls, boxes, quality = predictions.cls, predictions.boxes, predictions.quality
    parts = [part.detach() for part in (cls, boxes, quality) if part is not None]
    # The extremes are not finite where anything is not; one pass, without a mask of each part.
    extremes = torch.stack([bound.float() for part in parts for bound in part.aminmax()])
    return PackedSoft(
        cls=parts[0].to(torch.float16).cpu().numpy(),
        cls_is_prob=predictions.cls_is_prob,
        boxes=parts[1].to(torch.float32).cpu().numpy(),
        quality=None if quality is None else parts[2].to(torch.float16).cpu().numpy(),
        quality_kind=predictions.quality_kind,
        finite=bool(torch.isfinite(extremes).all()),
    )


def unpack(packed: PackedTable, device: torch.device) -> CostTable:
    """The table on ``device``; float32 survives the crossing bit for bit."""
    names = tuple(packed.columns)
    host = np.stack([packed.cost, *(packed.columns[name] for name in names)])
    rows = torch.from_numpy(host).to(device)
    return CostTable(cost=rows[0], columns={name: rows[i + 1] for i, name in enumerate(names)})


def unpack_soft(
    packed: PackedSoft, images: Sequence[int], device: torch.device
) -> DensePredictions:
    """The outputs for some images on ``device``, float32.

    The result may share memory with ``packed``, which lies read-only in the object store: do not
    write to it.
    """

    whole = list(images) == list(range(len(packed.cls)))

    def rows(array: np.ndarray) -> torch.Tensor:
        chosen = array if whole else array[list(images)]
        with warnings.catch_warnings():  # the store's arrays are read-only, and only read here
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(chosen).to(device).float()

    return DensePredictions(
        cls=rows(packed.cls),
        boxes=rows(packed.boxes),
        cls_is_prob=packed.cls_is_prob,
        quality=None if packed.quality is None else rows(packed.quality),
        quality_kind=packed.quality_kind,
    )


def check(
    packed: PackedTable, *, reader: str, batch_id: str, digest: str, image_ids: Sequence[int]
) -> None:
    """Refuse a table that speaks of another batch or other pairs, or that is not finite.

    Raises:
        CandidateMismatchError: batch or pairs differ; training would learn wrong pairs.
        NonFiniteCostError: a cost, column or soft label is NaN or infinite.
    """
    if packed.batch_id != batch_id:
        raise CandidateMismatchError(
            f"network {reader!r} is at batch {batch_id} but the costs of {packed.network!r} are of "
            f"batch {packed.batch_id}"
        )
    if packed.candidates_digest != digest:
        raise CandidateMismatchError(
            f"networks {packed.network!r} and {reader!r} see different candidate pairs for batch "
            f"{batch_id} ({packed.candidates_digest} and {digest}): their prior grids or paddings "
            "differ; give both the same strides, anchors and data_preprocessor.pad_size_divisor"
        )
    columns = {"cost": packed.cost, **packed.columns}
    for name, values in columns.items():
        check_finite(name, bool(np.isfinite(values).all()), packed.network, batch_id, image_ids)
    if packed.soft is not None and not packed.soft.finite:
        raise NonFiniteCostError(
            f"network {packed.network!r}: a class score, quality or box that others are to imitate "
            f"is not finite at batch {batch_id} (images {list(image_ids)}); lower the learning "
            "rate, set train.clip_grad or look at these images"
        )


def check_finite(
    column: str, finite: bool, network: str, batch_id: str, image_ids: Sequence[int]
) -> None:
    """Raise ``NonFiniteCostError`` naming network, batch and images where ``finite`` is False."""
    if not finite:
        raise NonFiniteCostError(
            f"network {network!r}: {column} of a candidate is not finite at batch {batch_id} "
            f"(images {list(image_ids)}); lower the learning rate, set train.clip_grad or look at "
            "these images"
        )
