"""The types that assigners, heads and networks hand to each other.

Shape letters, used in every docstring of this project:

    B images of a batch · L pyramid levels · A priors of one image (all levels, level-major)
    C classes · G ground-truth boxes (GTs) of the whole batch, images in order · N candidate pairs

Index conventions (the only place they are defined):

* a GT index counts over the *batch*, 0-based, in the order of ``GroundTruths``; -1 means "none";
* a prior index is 0..A-1 inside its image; a *flat* prior index is ``image * A + prior``;
* the background label is ``num_classes``;
* boxes are ``xyxy`` in pixels of the padded network input unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

QUALITY_KINDS = ("iou", "centerness", "objectness", "none")


@dataclass(frozen=True, kw_only=True)
class Priors:
    """The prior grid of a batch: the same A priors for each image, with per-image validity."""

    points: Tensor
    """(A, 2) float32, xy of each prior's point (the anchor's centre for anchor-based heads)."""
    strides: Tensor
    """(A,) float32, stride of the prior's level in pixels."""
    level: Tensor
    """(A,) int64, pyramid level, non-decreasing."""
    valid: Tensor
    """(B, A) bool: False where the prior lies in the padding of that image."""
    level_sizes: tuple[int, ...]
    """Number of priors per level; sums to A. On the host: shapes cost no synchronisation."""
    boxes: Tensor | None = None
    """(A, 4) float32 anchors, or None for point-based heads."""

    @property
    def num_priors(self) -> int:
        return self.points.shape[0]

    @property
    def num_images(self) -> int:
        return self.valid.shape[0]


@dataclass(frozen=True, kw_only=True)
class GroundTruths:
    """All GTs of a batch, images in order."""

    boxes: Tensor
    """(G, 4) float32 xyxy."""
    labels: Tensor
    """(G,) int64 in 0..C-1."""
    image: Tensor
    """(G,) int64, non-decreasing image index of each GT."""
    counts: tuple[int, ...]
    """GTs per image, on the host; its length is B."""
    image_shapes: Tensor
    """(B, 2) float32 (height, width) of each image before padding."""

    @property
    def num_gts(self) -> int:
        return self.boxes.shape[0]

    @property
    def num_images(self) -> int:
        return len(self.counts)

    @classmethod
    def from_lists(
        cls,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_shapes: Sequence[tuple[int, int]],
        device: torch.device | str | None = None,
    ) -> GroundTruths:
        """Concatenate per-image (G_i, 4) boxes and (G_i,) labels; an image may have none."""
        counts = tuple(len(b) for b in boxes)
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        all_boxes = torch.cat([b.reshape(-1, 4).float() for b in boxes])
        device = all_boxes.device if device is None else device
        return cls(
            boxes=all_boxes.to(device),
            labels=torch.cat([x.reshape(-1).long() for x in labels]).to(device),
            image=image.to(device),
            counts=counts,
            image_shapes=torch.tensor(image_shapes, dtype=torch.float32).reshape(-1, 2).to(device),
        )


@dataclass(frozen=True, kw_only=True)
class DensePredictions:
    """One network's output on the prior grid, in one form for all heads."""

    cls: Tensor
    """(B, A, C) class logits, or probabilities where ``cls_is_prob``."""
    boxes: Tensor
    """(B, A, 4) float32 decoded xyxy in input pixels, not clipped to the image."""
    cls_is_prob: bool = False
    quality: Tensor | None = None
    """(B, A) logits of the quality branch, or None."""
    quality_kind: str = "none"
    """What ``quality`` predicts: one of ``QUALITY_KINDS``."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What single methods need besides (centre parameters, property maps)."""

    def __post_init__(self) -> None:
        if self.quality_kind not in QUALITY_KINDS:
            raise ValueError(f"quality_kind {self.quality_kind!r}: expected one of {QUALITY_KINDS}")
        if (self.quality is None) != (self.quality_kind == "none"):
            raise ValueError(
                f"quality_kind {self.quality_kind!r} does not fit quality={self.quality}"
            )

    @property
    def num_classes(self) -> int:
        return self.cls.shape[-1]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The (prior, GT) pairs that may become positive: geometry only, equal on all networks.

    Rows are sorted by (gt, prior), hence also by (image, gt, level, prior).
    """

    image: Tensor
    """(N,) int64."""
    gt: Tensor
    """(N,) int64, index over the batch."""
    prior: Tensor
    """(N,) int64, index inside the image."""
    level: Tensor
    """(N,) int64."""
    offset: Tensor | None = None
    """(N, 2) float32 xy from the GT's centre to the point, in strides of the point's level; None
    where the method does not look at it."""

    def __len__(self) -> int:
        return self.gt.shape[0]


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """What one network thinks of each candidate; row n belongs to candidate pair n."""

    cost: Tensor
    """(N,) float32 >= 0, lower is better: what indicators and the switch look at."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Per-row (N,) float32 values that this assigner needs besides the cost."""

    def __len__(self) -> int:
        return self.cost.shape[0]

    def detach(self) -> CostTable:
        """The same table without autograd history."""
        return replace(
            self,
            cost=self.cost.detach(),
            columns={name: column.detach() for name, column in self.columns.items()},
        )


@dataclass(frozen=True, kw_only=True)
class HardAssignment:
    """Each prior learns one GT or background."""

    labels: Tensor
    """(B, A) int64; background = num_classes."""
    label_weights: Tensor
    """(B, A) float32; 0 where the prior takes no part (padding)."""
    pos_inds: Tensor
    """(P,) int64 flat prior indices of the positives, ascending."""
    pos_gt: Tensor
    """(P,) int64 GT of each positive."""
    box_targets: Tensor
    """(P, 4) float32 xyxy of that GT."""
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalar tensors for the run log (mixtures not fitted, GTs without positive ...)."""

    @property
    def num_pos(self) -> int:
        return self.pos_inds.shape[0]


@dataclass(frozen=True, kw_only=True)
class SoftAssignment:
    """Weights per candidate pair; a prior may serve several GTs.

    What no pair names, i.e. every (image, prior, class) that is not the class of a GT whose pair
    the prior is in, is background with negative weight 1. Where pairs of several GTs of one class
    share a prior, the GT with the highest index decides the negative weight.

    A method that has more to say to its loss (constants, further masks) returns a subclass, which
    its head asks for. Weights are detached unless the method differentiates through them (its
    docstring says so).
    """

    candidates: Candidates
    """The N pairs that the weights belong to."""
    pos_weight: Tensor
    """(N,) float32 weight of the pair's positive classification term."""
    neg_weight: Tensor
    """(N,) float32 weight of the negative term at (prior, GT class)."""
    box_weight: Tensor
    """(N,) float32 weight of the pair's localisation term."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Further per-row values of single methods."""
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalar tensors for the run log."""


Assignment = HardAssignment | SoftAssignment


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where training stands; ALA's soft labels and gradient accumulation need it."""

    iteration: int
    """Optimizer steps done before this one, 0-based."""
    max_iterations: int
    epoch: int = 0
    micro_batch: int = 0
    """Index inside this iteration's gradient accumulation, 0..accumulate-1."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""

    @property
    def synchronise(self) -> bool:
        """Whether gradients are exchanged between ranks and the optimizer steps afterwards."""
        return self.micro_batch == self.accumulate - 1


class Assigner(Protocol):
    """The contract of every method. Implementations hold hyper-parameters only, no state."""

    assignment_kind: ClassVar[str]
    """``"hard"`` or ``"soft"``: which form ``assign`` returns; the head must accept it."""
    default_scope: ClassVar[str]
    """Scope of one switching decision unless configured: ``"gt_level"`` or ``"gt"``."""

    def candidates(self, priors: Priors, gts: GroundTruths) -> Candidates:
        """Pairs from geometry alone."""
        ...

    def costs(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> CostTable:
        """One network's view of the pairs; keeps its gradient where the method needs it."""
        ...

    def assign(
        self,
        table: CostTable,
        candidates: Candidates,
        priors: Priors,
        gts: GroundTruths,
        *,
        num_classes: int,
        step: Step,
        live: CostTable | None = None,
    ) -> Assignment:
        """Assignment from the chosen rows; ``live`` is the learner's own table with gradient."""
        ...
