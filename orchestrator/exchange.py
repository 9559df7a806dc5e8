"""What crosses between networks: one network's costs for one batch, as numpy, through Ray's store.

Pair indices do not travel: they follow from geometry, so both sides have them already, and a digest
proves that they are the same. Transport is the object store; another one would be added here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from assigners.types import Candidates, CostTable
from orchestrator.errors import CandidateMismatchError, NonFiniteCostError


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

    @property
    def payload_bytes(self) -> int:
        return self.cost.nbytes + sum(column.nbytes for column in self.columns.values())


def candidates_digest(candidates: Candidates) -> str:
    """Digest of the pairs; equal on all networks whose prior grids and batches agree.

    Cost: one copy of 2 N integers to the host. Only taken where tables cross.
    """
    pairs = torch.stack((candidates.gt, candidates.prior)).to(torch.int32).cpu().numpy()
    return hashlib.blake2b(pairs.tobytes(), digest_size=12).hexdigest()


def pack(table: CostTable, *, network: str, batch_id: str, digest: str) -> PackedTable:
    """The table on the host: one device-to-host copy of all its columns, detached."""
    names = tuple(table.columns)
    rows = torch.stack([table.cost, *(table.columns[name] for name in names)])
    host = rows.detach().to(torch.float32).cpu().numpy()  # (1 + columns, N)
    return PackedTable(
        network=network,
        batch_id=batch_id,
        candidates_digest=digest,
        cost=host[0],
        columns={name: host[i + 1] for i, name in enumerate(names)},
    )


def unpack(packed: PackedTable, device: torch.device) -> CostTable:
    """The table on ``device``; float32 survives the crossing bit for bit."""
    names = tuple(packed.columns)
    host = np.stack([packed.cost, *(packed.columns[name] for name in names)])
    rows = torch.from_numpy(host).to(device)
    return CostTable(cost=rows[0], columns={name: rows[i + 1] for i, name in enumerate(names)})


def check(
    packed: PackedTable, *, reader: str, batch_id: str, digest: str, image_ids: Sequence[int]
) -> None:
    """Refuse a table that speaks of another batch or other pairs, or that is not finite.

    Raises:
        CandidateMismatchError: batch or pairs differ; training would learn wrong pairs.
        NonFiniteCostError: a cost or column is NaN or infinite.
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
