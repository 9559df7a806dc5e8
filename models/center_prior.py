"""Where inside its box an object tends to be: parameters of a Gaussian, learned or predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from assigners.center import CENTER_MEAN, CENTER_SIGMA

WIDEST = 64.0
"""Predicted sigmas lie between 1 / 64 and 64 strides."""


class CenterPrior(nn.Module):
    """Mean and sigma of the Gaussian over a point's offset from the GT's centre: a table.

    Args:
        kind: ``"category"`` learns one row per class, ``"shared"`` one for all, ``"fixed"`` none
            (mean 0, sigma 1).
        num_classes: C.

    Source:
        AutoAssign, sec. 3.2.
    """

    def __init__(self, kind: str, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        rows = num_classes if kind == "category" else 1
        mean, sigma = torch.zeros(rows, 2), torch.ones(rows, 2)
        if kind == "fixed":
            self.register_buffer("mean", mean, persistent=False)
            self.register_buffer("sigma", sigma, persistent=False)
        else:  # mmdet's names
            self.mean, self.sigma = nn.Parameter(mean), nn.Parameter(sigma)

    def extras(self, num_images: int) -> dict[str, Tensor]:
        """(B, C, 2) mean and sigma in strides, as a network's predictions state them."""
        return _stated(self.mean, self.sigma, (num_images, self.num_classes, 2))


class CenterPredictor(nn.Module):
    """The same, predicted for each image: global average pooling and a fully connected layer.

    Mean and sigma begin near 0 and 1. ln sigma is the predicted number r, squashed to
    r / (1 + |r| / ln 64): nothing in ALA's loss keeps sigma from growing without end.

    Args:
        kind: ``"category"`` predicts one row per class, ``"shared"`` one for all.
        num_classes: C.
        in_channels: of the feature maps.

    Source:
        ALA, fig. 4. The text has K numbers where x and y need 2 K, and swaps the initial values
        (sigma = 0). It does not say which level is pooled; here the mean over all levels is.
    """

    def __init__(self, kind: str, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        rows = num_classes if kind == "category" else 1
        self.fc = nn.Linear(in_channels, rows * 4)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """Levels of (B, channels, H, W) -> (B, 1 or C, 4): mean x, y, then r of sigma x, y."""
        pooled = torch.stack([level.mean(dim=(2, 3)) for level in x]).mean(0)  # (B, channels)
        return self.fc(pooled).unflatten(1, (-1, 4))

    def extras(self, predicted: Tensor) -> dict[str, Tensor]:
        """(B, C, 2) mean and sigma in strides, from what ``forward`` returned."""
        mean, raw = predicted.float().split(2, dim=2)
        sigma = torch.exp(raw / (1 + raw.abs() / math.log(WIDEST)))
        return _stated(mean, sigma, (len(predicted), self.num_classes, 2))


def _stated(mean: Tensor, sigma: Tensor, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    return {CENTER_MEAN: mean.expand(shape), CENTER_SIGMA: sigma.expand(shape)}
