"""What the point-based methods share: pairs by geometry, and arithmetic over pairs.

Their candidates are all (point, GT) pairs with the point strictly inside the GT, on all levels; a
point may serve several GTs. ``N`` is the number of such pairs of the whole batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from assigners.boxes import (
    aligned_giou,
    aligned_iou,
    gt_blocks,
    padded_boxes,
    pairwise_iou,
    rows_per_block,
)
from assigners.focal import LOG_FLOOR, floored_log
from assigners.types import Candidates, DensePredictions, GroundTruths, Priors

MIN_PROBABILITY = 1e-12
"""Lower bound of a probability whose logarithm is a cost."""
COST_FORMS = ("neg_log", "one_minus")
"""How a pair's probability P of being right becomes its cost: -ln max(P, 1e-12), or 1 - P."""

_PRIORS_AT_ONCE = 1 << 14  # of an image: arrays over them stay in a core's cache
_PRIORS_PER_PAIR = 3  # whose overlaps take as long as those of one pair, rounded up


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 unchanged."""
    return values if values.dtype == torch.float64 else values.float()


# -- pairs --------------------------------------------------------------------------------------


def inside_candidates(priors: Priors, gts: GroundTruths) -> Candidates:
    """All pairs of a point and a GT that contains it strictly; rows sorted by (gt, prior).

    Invalid priors (``priors.valid``) take no part. A GT without a point inside has no row. Costs
    one synchronisation (on a GPU: one per 16 million pairs of a point and a GT).

    Source:
        DW, AutoAssign: released code; inside means min(left, top, right, bottom) > 0.
    """
    x, y = priors.points.unbind(-1)  # (A,)
    size = rows_per_block(priors.num_priors, priors.points.device)
    gts_of_blocks, priors_of_blocks = [gts.image[:0]], [gts.image[:0]]
    for start in range(0, gts.num_gts, size):  # bounds memory, not a loop over GTs
        x1, y1, x2, y2 = gts.boxes[start : start + size, :, None].unbind(1)  # (g, 1)
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # (g, A)
        gt, prior = (inside & priors.valid[gts.image[start : start + size]]).nonzero(as_tuple=True)
        gts_of_blocks.append(gt + start)
        priors_of_blocks.append(prior)
    gt, prior = torch.cat(gts_of_blocks), torch.cat(priors_of_blocks)
    return Candidates(
        image=gts.image[gt],
        gt=gt,
        prior=prior,
        level=priors.level[prior],
        offset=offset_in_strides(priors, gts, gt, prior),
    )


def take_pairs(candidates: Candidates, keep: Tensor) -> tuple[Candidates, Tensor]:
    """The pairs where ``keep`` (N,) is True, in order, and their rows. One synchronisation."""
    rows = keep.nonzero().flatten()
    offset = candidates.offset
    taken = Candidates(
        image=candidates.image[rows],
        gt=candidates.gt[rows],
        prior=candidates.prior[rows],
        level=candidates.level[rows],
        offset=None if offset is None else offset[rows],
    )
    return taken, rows


def offset_in_strides(priors: Priors, gts: GroundTruths, gt: Tensor, prior: Tensor) -> Tensor:
    """(N, 2) xy from the GT's centre to the point, in strides of the point's level."""
    centre = (gts.boxes[:, :2] + gts.boxes[:, 2:]) / 2  # (G, 2)
    return (priors.points[prior] - centre[gt]) / priors.strides[prior, None]


def gaussian_prior(offset: Tensor, mean: Tensor | float, sigma: Tensor | float) -> Tensor:
    """exp(-(offset - mean)^2 / (2 sigma^2)), multiplied over x and y.

    Args:
        offset: (N, 2) in strides.
        mean: scalar, (2,) or (N, 2) in strides.
        sigma: as ``mean``; not 0.

    Returns:
        (N,) in (0, 1], differentiable in all three.
    """
    return torch.exp(-((offset - mean) ** 2) / (2 * sigma**2)).prod(dim=-1)


# -- predictions at pairs -----------------------------------------------------------------------


def joint_probability(predictions: DensePredictions) -> Tensor:
    """(B, A, C) probability of each class: class times objectness where that branch exists.

    Other kinds of quality (IoU, centerness) judge boxes rather than classes and take no part.
    """
    cls = at_least_float32(predictions.cls)
    probability = cls if predictions.cls_is_prob else cls.sigmoid()
    if predictions.quality is None or predictions.quality_kind != "objectness":
        return probability
    return probability * at_least_float32(predictions.quality).sigmoid()[..., None]


def pair_probability(
    predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
) -> Tensor:
    """(N,) ``joint_probability`` of each pair at its GT's class, with gradient."""
    image, prior = candidates.image, candidates.prior
    cls = at_least_float32(predictions.cls[image, prior, gts.labels[candidates.gt]])
    probability = cls if predictions.cls_is_prob else cls.sigmoid()
    if predictions.quality is None or predictions.quality_kind != "objectness":
        return probability
    return probability * at_least_float32(predictions.quality[image, prior]).sigmoid()


def pair_boxes(predictions: DensePredictions, candidates: Candidates) -> Tensor:
    """(N, 4) predicted xyxy of each pair's prior, with gradient."""
    return at_least_float32(predictions.boxes[candidates.image, candidates.prior])


def pair_iou(predictions: DensePredictions, candidates: Candidates, gts: GroundTruths) -> Tensor:
    """(N,) IoU of predicted box and GT, detached."""
    return aligned_iou(pair_boxes(predictions, candidates).detach(), gts.boxes[candidates.gt])


def pair_giou_loss(
    predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
) -> Tensor:
    """(N,) 1 - GIoU of predicted box and GT, in [0, 2], with gradient."""
    return 1 - aligned_giou(pair_boxes(predictions, candidates), gts.boxes[candidates.gt])


def pair_cost(probability: Tensor, form: str = "neg_log") -> Tensor:
    """(N,) cost >= 0, detached, of pairs that are right with the given probability.

    Args:
        probability: (N,) in [0, 1].
        form: one of ``COST_FORMS``.
    """
    probability = probability.detach().clamp(min=MIN_PROBABILITY, max=1.0)
    return -probability.log() if form == "neg_log" else 1 - probability


def log_pair_probability(
    predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
) -> Tensor:
    """(N,) logarithm of ``pair_probability``, at least -100, with gradient."""
    if predictions.cls_is_prob:
        return floored_log(pair_probability(predictions, candidates, gts))
    image, prior = candidates.image, candidates.prior
    cls = at_least_float32(predictions.cls[image, prior, gts.labels[candidates.gt]])
    result = F.logsigmoid(cls)
    if predictions.quality is not None and predictions.quality_kind == "objectness":
        result = result + F.logsigmoid(at_least_float32(predictions.quality[image, prior]))
    return result.clamp(min=LOG_FLOOR)


def neg_log_complement(probability: Tensor) -> Tensor:
    """-ln(1 - p), at most 100, exact for small p and with a finite gradient at p = 1."""
    certain = probability >= 1
    log = torch.log1p(-torch.where(certain, 0.0, probability)).clamp(min=LOG_FLOOR)
    return torch.where(certain, -LOG_FLOOR, -log)


def best_overlap(boxes: Tensor, candidates: Candidates, gts: GroundTruths) -> tuple[Tensor, Tensor]:
    """The GT of the same image that each pair's predicted box overlaps most.

    Args:
        boxes: (B, A, 4) xyxy of all priors.

    Returns:
        (N,) IoU, detached, and (N,) int64 GT index over the batch (the lowest of equal ones, also
        where nothing overlaps). A box that is not a number has IoU 0 and GT -1. Computed for the
        pairs or for all priors, whichever is fewer operations, with the same bits. No
        synchronisation.
    """
    boxes, image, prior = boxes.detach(), candidates.image, candidates.prior
    if _PRIORS_PER_PAIR * len(prior) < boxes.shape[0] * boxes.shape[1]:
        return _best_overlap_of_pairs(boxes[image, prior], image, gts)
    parts = at_least_float32(boxes).split(_PRIORS_AT_ONCE, dim=1)
    found = [_best_overlap_of_priors(part, gts) for part in parts]
    best, owner = (torch.cat(values, 1) for values in zip(*found))
    return best[image, prior], owner[image, prior]


def _best_overlap_of_pairs(
    boxes: Tensor, image: Tensor, gts: GroundTruths
) -> tuple[Tensor, Tensor]:
    """(N, 4) boxes of any priors and (N,) their images -> (N,) and (N,)."""
    boxes = at_least_float32(boxes)
    padded, index = padded_boxes(gts)
    # Coordinates and slots first: what follows reads and writes along the pairs.
    padded, index = padded.to(boxes.dtype).permute(2, 1, 0).contiguous(), index.T.contiguous()
    best, owner = [boxes.new_zeros(0)], [image.new_zeros(0)]
    size = rows_per_block(index.shape[0], boxes.device)
    for start in range(0, len(image), size):
        pairs = slice(start, start + size)
        gt_boxes = padded.index_select(2, image[pairs]).permute(1, 2, 0)  # (M, n, 4)
        gt = index.index_select(1, image[pairs])
        # The first of equal maxima: padding, which overlaps nothing, comes after the image's GTs.
        highest, slot = aligned_iou(gt_boxes, boxes[pairs].T.contiguous().T).max(dim=0)
        found = highest >= 0
        best.append(torch.where(found, highest, 0.0))
        owner.append(torch.where(found, gt.gather(0, slot[None])[0], -1))
    return torch.cat(best), torch.cat(owner)


def _best_overlap_of_priors(boxes: Tensor, gts: GroundTruths) -> tuple[Tensor, Tensor]:
    """(B, a, 4) boxes, few enough to stay in a core's cache -> (B, a) and (B, a)."""
    best = boxes.new_full(boxes.shape[:2], -1.0)
    owner = torch.full_like(best, -1, dtype=torch.int64)
    for block in gt_blocks(gts, boxes.shape[1]):
        rows = block.images
        iou = pairwise_iou(block.boxes.to(boxes.dtype), boxes[rows])  # (b, m, a)
        iou = torch.where(block.index[:, :, None] >= 0, iou, -1.0)
        highest, slot = iou.max(dim=1)  # the first of equal maxima
        better = highest > best[rows]  # strictly: earlier blocks hold earlier GTs
        best[rows] = torch.where(better, highest, best[rows])
        owner[rows] = torch.where(better, block.index.gather(1, slot), owner[rows])
    return best.clamp(min=0), owner


# -- per-GT reductions --------------------------------------------------------------------------


def gt_sum(values: Tensor, gt: Tensor, num_gts: int) -> Tensor:
    """(G,) sum of (N,) values over each GT's pairs; 0 for a GT without pair. Differentiable."""
    return values.new_zeros(num_gts).index_add(0, gt, values)


def gt_count(gt: Tensor, num_gts: int) -> Tensor:
    """(G,) int64 number of pairs of each GT."""
    return gt.new_zeros(num_gts).index_add(0, gt, torch.ones_like(gt))


def gt_mean(values: Tensor, gt: Tensor, num_gts: int) -> Tensor:
    """(G,) mean over each GT's pairs; 0 for a GT without pair. Differentiable."""
    return gt_sum(values, gt, num_gts) / gt_count(gt, num_gts).clamp(min=1)


def gt_max(values: Tensor, gt: Tensor, num_gts: int, empty: float = 0.0) -> Tensor:
    """(G,) maximum over each GT's pairs; ``empty`` for a GT without pair. Detached."""
    return _gt_extreme(values, gt, num_gts, "amax", empty)


def gt_min(values: Tensor, gt: Tensor, num_gts: int, empty: float = 0.0) -> Tensor:
    """(G,) minimum over each GT's pairs; ``empty`` for a GT without pair. Detached."""
    return _gt_extreme(values, gt, num_gts, "amin", empty)


def _gt_extreme(values: Tensor, gt: Tensor, num_gts: int, reduce: str, empty: float) -> Tensor:
    start = values.new_full((num_gts,), empty)
    return start.scatter_reduce(0, gt, values.detach(), reduce=reduce, include_self=False)


def rank_in_gt_level(values: Tensor, candidates: Candidates) -> Tensor:
    """(N,) int64 rank of each pair among its GT's pairs of its level: 0 for the lowest value.

    Equal values rank by prior. No synchronisation.
    """
    return rank_in_group(values, candidates.gt, candidates.level)


def rank_in_group(values: Tensor, *keys: Tensor) -> Tensor:
    """(N,) int64 rank of each row among those with the same keys: 0 for the lowest value.

    Equal values rank by row. No synchronisation.

    Args:
        values: (N,).
        keys: (N,) int64 each; rows are sorted by them, the first key first.
    """
    by_value = values.detach().argsort(stable=True)
    for key in reversed(keys):  # stable sorts, the last is the first key
        by_value = by_value[key[by_value].argsort(stable=True)]
    # Rows are sorted by the keys already, so each group keeps its block of positions.
    position = torch.arange(len(values), device=values.device)
    starts = torch.ones_like(position, dtype=torch.bool)
    starts[1:] = torch.stack([key.diff() != 0 for key in keys]).any(0)
    first = torch.where(starts, position, 0).cummax(0).values if len(values) else position
    rank = torch.empty_like(position)
    rank[by_value] = position - first
    return rank


# -- pairs back to the map ----------------------------------------------------------------------


def scatter_pairs(
    values: Tensor, candidates: Candidates, gts: GroundTruths, like: Tensor, fill: float
) -> Tensor:
    """Per-pair values at (image, prior, class of the GT); ``fill`` everywhere else. Detached.

    Where several GTs of one class contain a point, the GT with the highest index decides.

    Args:
        values: (N,).
        like: (B, A, C), gives shape, dtype and device.
        fill: value where no pair is.

    Returns:
        (B, A, C).

    Source:
        DW and AutoAssign; reference code differs: it writes the duplicates in GT order, which
        decides as here on a CPU and is undefined on a GPU.
    """
    _, num_priors, num_classes = like.shape
    flat = candidates.image * num_priors + candidates.prior
    key = flat * num_classes + gts.labels[candidates.gt]
    # Equal keys keep the order of the rows, i.e. of the GTs: the last one of each run decides.
    ordered, order = key.sort(stable=True)
    last = torch.searchsorted(ordered, key, right=True) - 1
    chosen = values.detach().to(like.dtype)[order[last]]
    result = torch.full_like(like, fill, requires_grad=False)
    result.view(-1)[key] = chosen  # duplicates write the same number
    return result
