"""Learned centre priors: where inside its box an object of a class tends to be.

A network states its prior in the ``extras`` of its predictions: mean and sigma of a Gaussian over
the offset from the GT's centre, per image and class. AutoAssign learns them, ALA predicts them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.focal import floored_log
from assigners.points import gt_max, gt_sum
from assigners.types import Candidates, DensePredictions, GroundTruths

CENTER_MEAN, CENTER_SIGMA = "center_mean", "center_sigma"
"""Keys of the extras: (B, C, 2) in strides of a point's level, x and y; sigma is not 0."""


def log_gaussian(offset: Tensor, mean: Tensor | float, sigma: Tensor | float) -> Tensor:
    """(N,) sum over x and y of -(offset - mean)^2 / (2 sigma^2).

    The logarithm of ``points.gaussian_prior``, exact where that is 0 in float32.
    """
    return -((offset - mean) ** 2 / (2 * sigma**2)).sum(dim=-1)


def log_center_weight(
    predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
) -> Tensor | None:
    """(N,) logarithm of the network's centre prior at each pair, with gradient.

    None for a network that states no prior: what that means is the method's to say.
    """
    if CENTER_MEAN not in predictions.extras:
        return None
    assert candidates.offset is not None
    row = (candidates.image, gts.labels[candidates.gt])
    mean, sigma = (predictions.extras[key][row] for key in (CENTER_MEAN, CENTER_SIGMA))
    return log_gaussian(candidates.offset, mean, sigma)


def center_loss(weight: Tensor, candidates: Candidates, gts: GroundTruths) -> Tensor:
    """Sum over images of the number of GTs over the sum of the centre weights.

    It keeps a learned prior from shrinking onto few points. Images without a pair count 0.

    Args:
        weight: (N,) centre weight of each pair, with gradient.

    Source:
        Released code of AutoAssign; not in the paper. There the mean over images is taken.
    """
    total = gt_sum(weight, candidates.image, gts.num_images)  # (B,)
    count = gt_sum(torch.ones_like(gts.boxes[:, 0]), gts.image, gts.num_images)
    found = gt_sum(torch.ones_like(weight), candidates.image, gts.num_images) > 0
    return torch.where(found, count / total.clamp(min=1e-12), 0.0).sum()


def gt_logsumexp(values: Tensor, gt: Tensor, num_gts: int) -> Tensor:
    """(G,) ln of the sum of e^values over each GT's pairs; -100 for a GT without pair.

    Differentiable; no intermediate value overflows, however small the sum.
    """
    highest = gt_max(values, gt, num_gts)
    return highest + floored_log(gt_sum((values - highest[gt]).exp(), gt, num_gts))
