"""Prior grids kept for the next batch of the same size: they follow from sizes alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from assigners.types import Priors

T = TypeVar("T")

RECENT_GRIDS = 16
"""Sizes that a head keeps the grid of: 36 bytes a prior, 0.8 MB for anchors at 800 x 1344."""
RECENT_FLAGS = 256
"""Images that a head keeps the validity of: a byte a prior, 22 kB at 800 x 1344."""


class Recent(Generic[T]):
    """The values of the keys last asked for; the one unused for longest goes first.

    Not part of what it belongs to: a copy, deep or shallow, and what a pickle brings back are
    empty. Values are shared by all that ask: only read them.

    Args:
        limit: how many values to keep, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[type[Recent[T]], tuple[int]]:
        return type(self), (self.limit,)

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """The value of ``key``; ``build`` makes it, without gradient, where there is none."""
        if key not in self._values:
            # What inference mode makes could not take part in training later.
            with torch.inference_mode(False), torch.no_grad():
                self._values[key] = build()
            if len(self._values) > self.limit:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]


def grid_key(featmap_sizes: Sequence[Sequence[int]], device: Any) -> Hashable:
    """What a grid depends on besides its head: (height, width) of each level, and the device."""
    exact = torch.empty(0, device=device).device  # "cuda" is another one at another time
    return tuple((int(height), int(width)) for height, width in featmap_sizes), exact


def one_image(levels: Sequence[Tensor], strides: Sequence[tuple[int, int]]) -> Priors:
    """The priors of one image without padding.

    Args:
        levels: (A_l, 2) xy of each level's points, or (A_l, 4) xyxy of its anchors, in pixels.
        strides: (x, y) of each level.
    """
    rows = torch.cat(list(levels))  # (A, 2 or 4)
    device, sizes = rows.device, tuple(len(level) for level in levels)
    anchors = rows if rows.shape[1] == 4 else None
    return Priors(
        points=rows if anchors is None else (anchors[:, :2] + anchors[:, 2:]) / 2,
        strides=_per_prior([float(stride[0]) for stride in strides], sizes, device),
        level=_per_prior(range(len(sizes)), sizes, device),
        valid=torch.ones(1, len(rows), dtype=torch.bool, device=device),
        level_sizes=sizes,
        boxes=anchors,
    )


def _per_prior(values: Sequence[float], sizes: Sequence[int], device: torch.device) -> Tensor:
    """(A,) each level's value at its priors; filled on the device, which waits for no copy."""
    return torch.cat([torch.full((n,), v, device=device) for n, v in zip(sizes, values)])
