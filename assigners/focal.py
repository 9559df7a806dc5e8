"""The focal loss as a cost: one value per candidate row, summed over classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_FLOOR = -100.0
"""Lower bound of each logarithm of a probability, as in ``torch.nn.BCELoss``."""


def floored_log(prob: Tensor) -> Tensor:
    """max(ln prob, -100) with a finite gradient at 0; NaN stays NaN."""
    zero = prob <= 0
    return torch.where(zero, LOG_FLOOR, torch.log(torch.where(zero, 1.0, prob)).clamp(LOG_FLOOR))


def focal_terms(
    cls: Tensor, *, is_prob: bool, alpha: float = 0.25, gamma: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Focal loss of every element, once for target 1 and once for target 0.

    Args:
        cls: (..., C) logits, or probabilities where ``is_prob``.
        alpha: weight of the positive term; the negative one has ``1 - alpha``.
        gamma: exponent of the modulating factor.

    Returns:
        Positive and negative terms, each shaped like ``cls``, float32 or wider, with gradient.
    """
    positive = _positive_term(cls, is_prob=is_prob, alpha=alpha, gamma=gamma)
    return positive, _negative_term(cls, is_prob=is_prob, alpha=alpha, gamma=gamma)


def _positive_term(cls: Tensor, *, is_prob: bool, alpha: float, gamma: float) -> Tensor:
    cls = cls if cls.dtype == torch.float64 else cls.float()
    prob = cls if is_prob else cls.sigmoid()
    neg_log_p = -floored_log(cls) if is_prob else -F.logsigmoid(cls)
    return neg_log_p * (alpha * (1 - prob).pow(gamma))


def _negative_term(cls: Tensor, *, is_prob: bool, alpha: float, gamma: float) -> Tensor:
    cls = cls if cls.dtype == torch.float64 else cls.float()
    prob = cls if is_prob else cls.sigmoid()
    neg_log_not_p = -floored_log(1 - cls) if is_prob else -F.logsigmoid(-cls)
    return neg_log_not_p * ((1 - alpha) * prob.pow(gamma))


def focal_cost(
    cls: Tensor, labels: Tensor, *, is_prob: bool = False, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of each row against its one-hot label, summed over all classes.

    Args:
        cls: (N, C) logits, or probabilities where ``is_prob``.
        labels: (N,) int64 in 0..C-1.

    Returns:
        (N,) float32 (float64 stays float64), >= 0.

    Source:
        LAD, eq. 2; the released code sums over all classes, not only the GT's, and so do we.
    """
    index = labels[:, None]
    positive = _positive_term(cls.gather(1, index), is_prob=is_prob, alpha=alpha, gamma=gamma)
    negative = _negative_term(cls, is_prob=is_prob, alpha=alpha, gamma=gamma)
    return negative.scatter(1, index, positive).sum(-1)
