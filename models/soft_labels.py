"""Soft labels: a learner imitates another network's outputs, besides or instead of an assignment.

Three terms share one normaliser, the sum of the weights of the selected priors. Classes: every
prior of a distilled image and every class, padding included. Boxes and quality: the priors whose
teacher's box overlaps a GT enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from assigners.boxes import aligned_giou, pairwise_iou
from assigners.types import DensePredictions, GroundTruths, Priors
from models.co_head import mean_over_ranks

SOFT_LOSSES = ("kl", "l1", "l2")
SELECTIONS = ("teacher_box", "anchor")
SMOOTHING = 1e-6
"""Added to the squared difference before the root of the focal factor."""
MIN_PROB, MAX_PROB = 1e-4, 0.9999
"""Bounds of both probabilities where a learner's branch gives probabilities, not logits."""
_MAX_OVERLAPS = 1 << 26  # elements of one overlap block: 256 MiB per float32 temporary


class SoftLabelSettings(Protocol):
    """The fields of ``soft_labels`` in a run's configuration that the losses read."""

    @property
    def loss(self) -> str:
        """One of ``SOFT_LOSSES``."""
        ...

    @property
    def gamma(self) -> float:
        """Exponent of the focal factor of ``"kl"``."""
        ...

    @property
    def cls_weight(self) -> float:
        """Weight of the class term."""
        ...

    @property
    def iou_weight(self) -> float:
        """Weight of the quality term."""
        ...

    @property
    def box_weight(self) -> float:
        """Weight of the box term."""
        ...

    @property
    def iou_threshold(self) -> float:
        """A prior is selected above this overlap with any GT."""
        ...

    @property
    def selection(self) -> str:
        """Whose overlap selects: one of ``SELECTIONS``."""
        ...


@dataclass(frozen=True, kw_only=True)
class SoftSums:
    """Sums over the images that one teacher teaches, before weights and normaliser."""

    cls: Tensor
    """Scalar: element losses of all priors and classes."""
    box: Tensor
    """Scalar: weight times 1 - GIoU over the selected priors."""
    quality: Tensor | None
    """Scalar: element losses of the quality branch over the selected priors; None without one."""
    weight: Tensor
    """Scalar, detached: overlaps of the selected priors with their best GT."""
    num_images: int
    num_selected: int


def soft_label_elements(
    student: Tensor, target: Tensor, *, is_prob: bool = False, loss: str = "kl", gamma: float = 0.5
) -> Tensor:
    """One loss per element against the teacher's probability.

    ``kl`` is ``((q - p)^2 + 1e-6)^(gamma / 2) * KL(q || p)`` of two Bernoulli distributions, ``l1``
    ``|q - p|`` and ``l2`` ``(q - p)^2``.

    Args:
        student: logits, or probabilities where ``is_prob``.
        target: teacher's probabilities q, same shape; detached here.
        loss: one of ``SOFT_LOSSES``.
        gamma: exponent of the focal factor; ``kl`` only.

    Returns:
        Like ``student``, float32 or wider.

    Raises:
        ValueError: unknown ``loss``.

    Gradient:
        Flows through the focal factor as well; bounded probabilities have none outside the bounds.

    Source:
        LAD, eq. 1. Reference code differs: it smooths ``|q - p|`` by 1e-6 under the root, and so do
        we. It has no L1 and L2; the paper names them without more.
    """
    student = student if student.dtype == torch.float64 else student.float()
    target = target.detach().to(student.dtype)
    if loss not in SOFT_LOSSES:
        raise ValueError(f"soft_labels.loss {loss!r}: expected one of {SOFT_LOSSES}")
    if loss != "kl":
        gap = target - (student if is_prob else student.sigmoid())
        return gap.abs() if loss == "l1" else gap.square()
    if is_prob:
        prob, target = student.clamp(MIN_PROB, MAX_PROB), target.clamp(MIN_PROB, MAX_PROB)
        log_p, log_not_p = prob.log(), (1 - prob).log()
    else:
        prob, log_p = student.sigmoid(), F.logsigmoid(student)
        log_not_p = log_p - student
    entropy = torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target)
    divergence = entropy - target * log_p - (1 - target) * log_not_p
    if gamma == 0:
        return divergence
    return ((target - prob).square() + SMOOTHING).pow(gamma / 2) * divergence


def soft_label_sums(
    student: DensePredictions,
    teacher: DensePredictions,
    priors: Priors,
    gts: GroundTruths,
    settings: SoftLabelSettings,
    images: Tensor | None = None,
) -> SoftSums:
    """What one teacher contributes to the soft-label losses of a batch.

    Args:
        student: the learner's predictions for all B images, with gradient.
        teacher: the teacher's for the K images it teaches.
        priors: of the batch.
        gts: of the batch; they decide which boxes are worth imitating.
        settings: loss, threshold and source of the overlap.
        images: (K,) int64 image of each row of ``teacher``; None for all B in order.

    Raises:
        ValueError: the quality branches of the two predict different things.

    Source:
        LAD, sec. 3.1: boxes of the teacher with IoU > 0.5. Reference code adds, and so do we: both
        networks' boxes are clipped to the image, boxes are weighted by that IoU, padding counts in
        the class term.
    """
    if images is None:
        images = torch.arange(gts.num_images, device=student.cls.device)
    else:
        student = _rows(student, images)
    kinds = student.quality_kind, teacher.quality_kind
    if settings.iou_weight > 0 and kinds[0] != kinds[1]:
        raise ValueError(
            f"soft labels: the learner's quality branch is {kinds[0]!r}, the teacher's "
            f"{kinds[1]!r}; set soft_labels.iou_weight=0 to leave it out"
        )
    shapes = gts.image_shapes[images]  # (K, 2)
    teacher_boxes = _clip(teacher.boxes.detach(), shapes[:, None])
    row, prior, weight = _select(teacher_boxes, priors, gts, settings, images)
    student_boxes = _clip(student.boxes[row, prior], shapes[row])
    gap = 1 - aligned_giou(student_boxes, teacher_boxes[row, prior])
    elements = partial(soft_label_elements, loss=settings.loss, gamma=settings.gamma)
    quality = None
    if student.quality is not None and teacher.quality is not None:
        target = teacher.quality[row, prior].sigmoid()
        quality = elements(student.quality[row, prior], target).sum()
    target = teacher.cls if teacher.cls_is_prob else teacher.cls.sigmoid()
    classes = elements(student.cls, target, is_prob=student.cls_is_prob)
    return SoftSums(
        cls=classes.sum(),
        box=(weight * gap).sum(),
        quality=quality,
        weight=weight.sum(),
        num_images=len(images),
        num_selected=len(row),
    )


def soft_label_losses(
    sums: Sequence[SoftSums], student: DensePredictions, settings: SoftLabelSettings
) -> dict[str, Tensor]:
    """The losses of a learner from what each of its teachers contributed.

    Every output of the learner enters, times 0 where it has nothing to learn. A collective call:
    all ranks of the network take part.

    Args:
        sums: one per teacher; none if this rank's images have no other teacher than the learner.
        student: the learner's predictions for all images, with gradient.
        settings: the weights.

    Returns:
        float32 scalars ``loss_soft_cls``, ``loss_soft_bbox`` and, where the learner has a quality
        branch, ``loss_soft_iou``.

    Source:
        LAD, sec. 3.1; weights and the normaliser (the sum of overlaps) are the reference code's. It
        divides by zero without a selected box; here the normaliser is 1 then. It reduces over no
        ranks; here the normaliser is averaged over them.
    """
    parts = list(sums)
    idle = [t.float().sum() * 0 for t in student.extras.values() if t.requires_grad]
    cls = [part.cls for part in parts] or [student.cls.sum() * 0]
    boxes = [part.box for part in parts if part.num_selected]
    total = sum((part.weight for part in parts), student.cls.new_zeros(()))
    (weight,) = mean_over_ranks(total, like=student.cls)
    norm = torch.where(weight > 0, weight, 1.0)
    losses = {
        "loss_soft_cls": settings.cls_weight * sum(cls) / norm + sum(idle),
        "loss_soft_bbox": settings.box_weight * sum(boxes or [student.boxes.sum() * 0]) / norm,
    }
    if student.quality is not None:
        terms = [p.quality for p in parts if p.quality is not None and p.num_selected]
        quality = sum(terms or [student.quality.sum() * 0])
        losses["loss_soft_iou"] = settings.iou_weight * quality / norm
    return losses


def _select(
    teacher_boxes: Tensor,
    priors: Priors,
    gts: GroundTruths,
    settings: SoftLabelSettings,
    images: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Row, prior and weight of each selected prior, (P,) each; teacher_boxes (K, A, 4) clipped."""
    source = teacher_boxes
    if settings.selection == "anchor":
        if priors.boxes is None:
            raise ValueError("soft_labels.selection='anchor', but the priors are points")
        source = priors.boxes.expand_as(teacher_boxes)
    overlap = best_iou(source, gts, images)  # (K, A)
    selected = (overlap > settings.iou_threshold) & priors.valid[images]
    row, prior = selected.nonzero(as_tuple=True)  # one synchronisation
    return row, prior, overlap[row, prior]


def best_iou(boxes: Tensor, gts: GroundTruths, images: Tensor) -> Tensor:
    """Largest overlap of each box with a GT of its image; 0 in images without GT.

    Args:
        boxes: (K, A, 4) xyxy.
        images: (K,) int64 image of each row.

    Returns:
        (K, A).
    """
    if gts.num_gts == 0:
        return boxes.new_zeros(boxes.shape[:2])
    # Padded with empty boxes, which overlap nothing.
    padded = pad_sequence(gts.boxes.split(gts.counts), batch_first=True)[images]  # (K, M, 4)
    per_block = max(1, _MAX_OVERLAPS // max(1, boxes.shape[1] * padded.shape[1]))
    blocks = zip(boxes.split(per_block), padded.split(per_block))
    return torch.cat([pairwise_iou(rows, targets).amax(-1) for rows, targets in blocks])


def _clip(boxes: Tensor, shapes: Tensor) -> Tensor:
    """(..., 4) xyxy inside images of (..., 2) height and width; no gradient for what lies outside.

    float32 or wider.
    """
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    extent = shapes.to(boxes.dtype).flip(-1)  # w, h
    limit = torch.cat([extent, extent], dim=-1).expand_as(boxes)
    return boxes.clamp(min=torch.zeros_like(limit), max=limit)


def _rows(predictions: DensePredictions, images: Tensor) -> DensePredictions:
    """The predictions of some images."""
    quality = predictions.quality
    return DensePredictions(
        cls=predictions.cls[images],
        boxes=predictions.boxes[images],
        cls_is_prob=predictions.cls_is_prob,
        quality=None if quality is None else quality[images],
        quality_kind=predictions.quality_kind,
    )
