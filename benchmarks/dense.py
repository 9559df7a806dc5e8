"""Assignment written plainly, as the peers of our assigners: every quantity for every prior and GT.

One image, the default hyper-parameters, (A, G) tensors masked by what lies inside; the same weights
as the assigners', which ``assignment.py`` checks before it takes a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assigners import Candidates, DensePredictions, GroundTruths, Priors

EPS = 1e-12


def inside(priors: Priors, gts: GroundTruths) -> Tensor:
    """(A, G) bool."""
    x, y = priors.points[:, :, None].unbind(1)  # (A, 1) each
    left, top, right, bottom = gts.boxes.unbind(1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def overlaps(boxes: Tensor, gts: Tensor) -> tuple[Tensor, Tensor]:
    """(A, G) IoU and union of (A, 4) and (G, 4) boxes."""
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    gt_left, gt_top, gt_right, gt_bottom = gts.unbind(1)
    width = torch.minimum(right, gt_right) - torch.maximum(left, gt_left)
    height = torch.minimum(bottom, gt_bottom) - torch.maximum(top, gt_top)
    intersection = width.clamp(min=0) * height.clamp(min=0)
    areas = (right - left) * (bottom - top) + (gt_right - gt_left) * (gt_bottom - gt_top)
    union = (areas - intersection).clamp(min=1e-6)
    return intersection / union, union


def generalised(iou: Tensor, union: Tensor, boxes: Tensor, gts: Tensor) -> Tensor:
    """(A, G) GIoU from what ``overlaps`` gave."""
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    gt_left, gt_top, gt_right, gt_bottom = gts.unbind(1)
    width = torch.maximum(right, gt_right) - torch.minimum(left, gt_left)
    height = torch.maximum(bottom, gt_bottom) - torch.minimum(top, gt_top)
    outer = (width * height).clamp(min=1e-6)
    return iou - (outer - union) / outer


def offsets(priors: Priors, gts: GroundTruths) -> tuple[Tensor, Tensor]:
    """(A, G) twice: x and y from the GTs' centres in strides."""
    x, y = priors.points[:, :, None].unbind(1)
    centre_x, centre_y = ((gts.boxes[:, :2] + gts.boxes[:, 2:]) / 2).unbind(1)
    return (x - centre_x) / priors.strides[:, None], (y - centre_y) / priors.strides[:, None]


def _score(predictions: DensePredictions, gts: GroundTruths) -> Tensor:
    """(A, G) class times objectness at the GT's class; only classes that occur are computed."""
    assert predictions.quality is not None
    classes, index = gts.labels.unique(return_inverse=True)
    score = predictions.cls[0, :, classes].sigmoid() * predictions.quality[0, :, None].sigmoid()
    return score[:, index]


def dw(predictions: DensePredictions, priors: Priors, gts: GroundTruths) -> dict[str, Tensor]:
    """Positive and negative weights of Dual Weighting."""
    mask = inside(priors, gts)
    score = _score(predictions, gts)
    iou, union = overlaps(predictions.boxes[0], gts.boxes)
    giou = generalised(iou, union, predictions.boxes[0], gts.boxes)
    p_pos = torch.where(mask, score * torch.exp(-5 * (1 - giou)), 0.0)
    x, y = offsets(priors, gts)
    prior = torch.exp((x**2 + y**2) / (-2 * 1.11**2))
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
    iou, union = overlaps(predictions.boxes[0], gts.boxes)
    giou = generalised(iou, union, predictions.boxes[0], gts.boxes)
    confidence = torch.exp(_score(predictions, gts) * torch.exp(-5 * (1 - giou)) * 3)
    odds = 1 / (1 - iou.amax(1, keepdim=True)).clamp(min=EPS)  # (A, 1)
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
    mean_x, mean_y = predictions.extras["center_mean"][0, gts.labels].unbind(1)
    scale_x, scale_y = (-2 * predictions.extras["center_sigma"][0, gts.labels] ** 2).unbind(1)
    x, y = offsets(priors, gts)
    centre = torch.exp((x - mean_x) ** 2 / scale_x + (y - mean_y) ** 2 / scale_y)
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
    owned = mask & (iou.argmax(1, keepdim=True) == torch.arange(gts.num_gts))
    joint = torch.where(owned, p * q, 0.0)
    bag = owned & (joint > 0.1 * joint.amax(0))
    size = bag.sum(0).clamp(min=1).float().sqrt()
    places = torch.arange(len(bag))[:, None].expand_as(bag)
    weights = {}
    ranked = (("pos_weight", q * p ** (1 / 3), size), ("box_weight", p * q ** (1 / 3), size / 2))
    for name, value, tau in ranked:
        order = torch.where(bag, value, -1.0).argsort(dim=0, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, places)
        weights[name] = torch.where(bag, torch.exp(-rank / tau), 0.0)
    return weights


def paa(predictions: DensePredictions, priors: Priors, gts: GroundTruths) -> Candidates:
    """PAA's candidates: each anchor's best GT from 0.1, and every anchor that is a GT's best."""
    assert priors.boxes is not None
    iou, _ = overlaps(priors.boxes, gts.boxes)
    best, owner = iou.max(1)
    attains = iou == iou.amax(0)
    last = torch.where(attains, torch.arange(gts.num_gts), -1).amax(1)  # later GTs overwrite
    owner = torch.where(last >= 0, last, torch.where(best >= 0.1, owner, -1))
    prior = (owner >= 0).nonzero().flatten()
    gt, order = owner[prior].sort(stable=True)
    prior = prior[order]
    return Candidates(image=torch.zeros_like(gt), gt=gt, prior=prior, level=priors.level[prior])
