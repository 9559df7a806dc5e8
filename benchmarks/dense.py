"""Assignment written plainly, as the peers of our assigners: every quantity for every prior and GT.

One image, the default hyper-parameters, (A, G) tensors masked by what lies inside; the same weights
as the assigners', which ``assignment.py`` checks before it takes a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assigners import DensePredictions, GroundTruths, Priors

EPS = 1e-12


def inside(priors: Priors, gts: GroundTruths) -> Tensor:
    """(A, G) bool."""
    points, boxes = priors.points[:, None], gts.boxes[None]
    distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)  # (A, G, 4)
    return distances.min(-1).values > 0


def overlaps(boxes: Tensor, gts: Tensor) -> tuple[Tensor, Tensor]:
    """(A, G) IoU and GIoU of (A, 4) and (G, 4) boxes."""
    low = torch.max(boxes[:, None, :2], gts[None, :, :2])
    high = torch.min(boxes[:, None, 2:], gts[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, gts)]
    union = areas[0][:, None] + areas[1][None] - intersection
    outer_low = torch.min(boxes[:, None, :2], gts[None, :, :2])
    outer_high = torch.max(boxes[:, None, 2:], gts[None, :, 2:])
    outer = (outer_high - outer_low).prod(-1)
    iou = intersection / union.clamp(min=1e-6)
    return iou, iou - (outer - union) / outer.clamp(min=1e-6)


def offsets(priors: Priors, gts: GroundTruths) -> Tensor:
    """(A, G, 2) from the GTs' centres in strides."""
    centre = (gts.boxes[:, :2] + gts.boxes[:, 2:]) / 2
    return (priors.points[:, None] - centre[None]) / priors.strides[:, None, None]


def _score(predictions: DensePredictions, gts: GroundTruths) -> Tensor:
    """(A, G) class times objectness at the GT's class."""
    cls = predictions.cls[0].sigmoid()[:, gts.labels]
    assert predictions.quality is not None
    return cls * predictions.quality[0].sigmoid()[:, None]


def dw(predictions: DensePredictions, priors: Priors, gts: GroundTruths) -> dict[str, Tensor]:
    """Positive and negative weights of Dual Weighting."""
    mask = inside(priors, gts)
    score = _score(predictions, gts)
    iou, giou = overlaps(predictions.boxes[0], gts.boxes)
    p_pos = torch.where(mask, score * torch.exp(-5 * (1 - giou)), 0.0)
    prior = torch.exp(-(offsets(priors, gts) ** 2) / (2 * 1.11**2)).prod(-1)
    base = p_pos * prior
    weight = torch.where(mask, torch.exp(5 * p_pos) * base, 0.0)
    total = torch.where(mask, torch.exp(3 * p_pos) * base, 0.0).sum(0)
    odds = (1 - iou**2) / (1 - 0.5**2)
    lowest = torch.where(mask, odds, math.inf).amin(0)
    highest = torch.where(mask, odds, -math.inf).amax(0).clamp(max=1)
    negative = (odds - lowest + EPS) / (highest - lowest + EPS)
    return {
        "pos_weight": weight / total.clamp(min=EPS),
        "neg_weight": torch.where(mask, torch.where(iou < 0.5, 1.0, negative), 0.0),
    }


def autoassign(
    predictions: DensePredictions, priors: Priors, gts: GroundTruths
) -> dict[str, Tensor]:
    """Confidence and negative weights of AutoAssign."""
    mask = inside(priors, gts)
    iou, giou = overlaps(predictions.boxes[0], gts.boxes)
    confidence = torch.exp(_score(predictions, gts) * torch.exp(-5 * (1 - giou)) * 3)
    best = iou.amax(1, keepdim=True).expand_as(iou)
    odds = 1 / (1 - best).clamp(min=EPS)
    lowest = torch.where(mask, odds, math.inf).amin(0)
    highest = torch.where(mask, odds, -math.inf).amax(0)
    negative = 1 - (odds - lowest + EPS) / (highest - lowest + EPS)
    return {
        "pos_weight": torch.where(mask, confidence, 0.0),
        "neg_weight": torch.where(mask, negative, 0.0),
    }


def ala(predictions: DensePredictions, priors: Priors, gts: GroundTruths) -> dict[str, Tensor]:
    """Soft label of every pair (1 for hard positives) of ALA at the first iteration."""
    mask = inside(priors, gts)
    iou, _ = overlaps(predictions.boxes[0], gts.boxes)
    log_loc = -((1 - iou).clamp(min=EPS) ** 0.8)
    confidence = _score(predictions, gts) ** 0.6 * torch.exp(0.4 * log_loc)
    mean = predictions.extras["center_mean"][0, gts.labels]
    sigma = predictions.extras["center_sigma"][0, gts.labels]
    centre = torch.exp(-((offsets(priors, gts) - mean) ** 2) / (2 * sigma**2)).prod(-1)
    score = confidence * centre * predictions.extras["foreground"][0][:, None]
    score = torch.where(mask, score, 0.0).double()
    count = mask.sum(0).clamp(min=1)
    average = score.sum(0) / count
    deviation = (torch.where(mask, score - average, 0.0) ** 2).sum(0).div(count).sqrt()
    hard = mask & (score >= average + deviation)
    soft = mask & ~hard & (score >= average - deviation)
    label = score / score.amax(0).clamp(min=EPS)
    return {"pos_weight": torch.where(soft, label, hard.double()).float()}


def musu(predictions: DensePredictions, priors: Priors, gts: GroundTruths) -> dict[str, Tensor]:
    """Weights of the class and box terms of MuSu."""
    mask = inside(priors, gts)
    iou, _ = overlaps(predictions.boxes[0], gts.boxes)
    p, q = _score(predictions, gts), iou**4
    owner = iou.argmax(1)
    owned = mask & (owner[:, None] == torch.arange(gts.num_gts))
    joint = torch.where(owned, p * q, 0.0)
    bag = owned & (joint > 0.1 * joint.amax(0))
    size = bag.sum(0).clamp(min=1).float().sqrt()
    weights = {}
    ranked = (("pos_weight", q * p ** (1 / 3), size), ("box_weight", p * q ** (1 / 3), size / 2))
    for name, value, tau in ranked:
        order = torch.where(bag, value, -1.0).argsort(dim=0, descending=True, stable=True)
        rank = order.argsort(dim=0)
        weights[name] = torch.where(bag, torch.exp(-rank / tau), 0.0)
    return weights
