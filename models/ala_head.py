"""ALA's head: a property map of foreground and background, predicted centre priors, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from torch import Tensor, nn

from assigners.ala import BACKGROUND, FOREGROUND, ALAAssignment
from assigners.center import center_loss, log_center_weight
from assigners.points import neg_log_complement
from assigners.types import Assignment, DensePredictions, GroundTruths, Priors, Step
from models.center_prior import CenterPredictor, CenterPrior
from models.co_head import mean_over_ranks
from models.point_head import CoPointHead

CENTER_PRIORS = ("category", "shared", "fixed")
CENTER_PARAMS = ("predicted", "table")
PROPERTY_STRIDES = (8, 32)
BLUR_RADIUS, BLUR_VARIANCE = 3, 2.0
_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss of negatives


@MODELS.register_module()
class CoALAHead(CoPointHead):
    """FCOS with ALA. Taught, another network's S+ makes the sets and labels.

    ``forward`` returns, after the lists over levels of ``CoPointHead``, a list with the logits of
    the property map (B, 2, H, W) at stride 8 where that branch is built, and a list with the
    predicted centre parameters (B, 1 or C, 4) where those are predicted.

    Args:
        objectness: which branch speaks of objects, table I: ``"ipb"``, the instance property branch
            (foreground and background); ``"implicit"``, AutoAssign's; ``"centerness"``, FCOS's,
            learned at ALA's positives; ``"none"``.
        shape_blur: blur the property map by a Gaussian (radius 3, variance 2), table VI.
        center_prior: ``"category"``, ``"shared"`` or ``"fixed"``, table VII.
        center_params: ``"predicted"`` for each image, or a learned ``"table"`` as in AutoAssign.
        kwargs: of ``CoPointHead``.

    Raises:
        ValueError: as ``CoPointHead``, for an unknown ``center_prior`` or ``center_params``, for
            ``loss_cls`` and ``loss_bbox``, and for a property map without strides 8 and 32.

    Source:
        ALA, sec. III. There is no released code.
    """

    method: ClassVar[str] = "ALA"
    objectness_kinds: ClassVar[tuple[str, ...]] = ("ipb", "implicit", "centerness", "none")
    kinds_with_branch: ClassVar[tuple[str, ...]] = ("implicit", "centerness")

    def __init__(
        self,
        *args: Any,
        objectness: str = "ipb",
        shape_blur: bool = True,
        center_prior: str = "category",
        center_params: str = "predicted",
        **kwargs: Any,
    ) -> None:
        for name, value, known in (
            ("center_prior", center_prior, CENTER_PRIORS),
            ("center_params", center_params, CENTER_PARAMS),
        ):
            if value not in known:
                raise ValueError(f"bbox_head.{name} {value!r}: expected one of {known}")
        for name in ("loss_cls", "loss_bbox"):
            if name in kwargs:
                raise ValueError(f"bbox_head.{name}: ALA's loss follows from the assigner")
        self.shape_blur, self.center_prior_kind = shape_blur, center_prior
        self.center_is_predicted = center_params == "predicted" and center_prior != "fixed"
        super().__init__(*args, objectness=objectness, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.center_is_predicted:
            self.center_predictor = CenterPredictor(
                self.center_prior_kind, self.num_classes, self.in_channels
            )
        else:
            self.center_prior = CenterPrior(self.center_prior_kind, self.num_classes)
        if self.objectness != "ipb":
            return
        missing = [stride for stride in PROPERTY_STRIDES if stride not in self.strides]
        if missing:
            raise ValueError(
                f"bbox_head.strides {tuple(self.strides)}: the property map needs strides "
                f"{PROPERTY_STRIDES}; add them or set bbox_head.objectness"
            )
        self.property_align = nn.Conv2d(self.in_channels, self.in_channels, 1)
        self.property_predict = nn.Conv2d(2 * self.in_channels, 2, 1)

    # -- forward --------------------------------------------------------------------------------

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Raw outputs of all levels, then property map and centre parameters; see the class."""
        outs = super().forward(x)
        if self.objectness == "ipb":
            outs = (*outs, [self._property_logits(x)])
        if self.center_is_predicted:
            outs = (*outs, [self.center_predictor(x)])
        return outs

    def _property_logits(self, x: Sequence[Tensor]) -> Tensor:
        """(B, 2, H, W) at stride 8: foreground, background.

        Source:
            ALA, Eq. 1; its P2 and P4 are the levels of stride 8 and 32 by the sizes it states.
        """
        fine, coarse = (x[list(self.strides).index(stride)] for stride in PROPERTY_STRIDES)
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        result: Tensor = self.property_predict(torch.cat([self.property_align(fine), coarse], 1))
        return result

    def property_map(self, logits: Tensor) -> Tensor:
        """(B, 2, H, W) probabilities of foreground and background, blurred if ``shape_blur``."""
        probability = logits.float().sigmoid()
        return gaussian_blur(probability) if self.shape_blur else probability

    def predict_property_map(self, x: Sequence[Tensor]) -> Tensor:
        """(B, 2, H, W) foreground and background at stride 8, as they enter the scores.

        Raises:
            ValueError: this head has no instance property branch.
        """
        if self.objectness != "ipb":
            raise ValueError(f"bbox_head.objectness {self.objectness!r}: only 'ipb' has this map")
        return self.property_map(self._property_logits(x))

    # -- the co-training interface --------------------------------------------------------------

    def dense_predictions(self, outs: Sequence[Any], priors: Priors) -> DensePredictions:
        """As ``CoPointHead``, with centre prior and property map at each prior among the extras."""
        outs = list(outs)
        if self.center_is_predicted:
            extras = self.center_predictor.extras(outs.pop()[0])
        else:
            extras = self.center_prior.extras(priors.num_images)
        if self.objectness == "ipb":
            maps = self.property_map(outs.pop()[0])
            offset = self.prior_generator.offset
            at_points = sample_map(maps, priors.points / PROPERTY_STRIDES[0] - offset)
            extras |= {FOREGROUND: at_points[:, 0], BACKGROUND: at_points[:, 1]}
        predictions = super().dense_predictions(outs, priors)
        if self.objectness == "centerness":
            predictions = replace(predictions, quality_kind="centerness")
        return replace(predictions, extras=extras)

    def current_step(self) -> Step:
        """Where mmengine's runner stands; the beginning where there is none."""
        hub = MessageHub.get_current_instance()
        done, total = (hub.get_info(key, default=None) for key in ("iter", "max_iters"))
        if done is None or total is None:
            return Step(iteration=0, max_iterations=1)
        return Step(iteration=int(done), max_iterations=int(total))

    def loss_from_assignment(
        self,
        predictions: DensePredictions,
        outs: Sequence[Any],
        assignment: Assignment,
        priors: Priors,
        gts: GroundTruths,
        *,
        taught: bool,
    ) -> dict[str, Tensor]:
        """Losses of the three sets; ``outs`` and ``taught`` change nothing.

        Raises:
            TypeError: the assignment is not ALA's.
        """
        losses = ala_losses(predictions, assignment, gts)
        if self.objectness == "centerness":
            assert isinstance(assignment, ALAAssignment)
            losses["loss_centerness"] = centerness_loss(predictions, assignment, priors, gts)
        return losses

    def predict_by_feat(
        self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], *args: Any, **kwargs: Any
    ) -> Any:
        """As ``CoPointHead``; property map and centre parameters take no part."""
        surplus = (self.objectness == "ipb") + self.center_is_predicted
        first = 1 if self.has_objectness else 0
        args = (*args[:first], *args[first + surplus :])
        return super().predict_by_feat(cls_scores, bbox_preds, *args, **kwargs)


def ala_losses(
    predictions: DensePredictions, assignment: Assignment, gts: GroundTruths
) -> dict[str, Tensor]:
    """ALA's losses of any predictions on the prior grid.

    Gradient: reaches class and quality logits, boxes, property map and centre prior through the
    learner's own S+ and S-; sets and labels are constants.

    Raises:
        TypeError: the assignment is not ALA's.

    Source:
        ALA, Eq. 8, 9, 11 and 12. It prints S+ in Eq. 11, which points outside have not; S- is
        meant. It names no normalisers; ours are the GTs and the positives, averaged over ranks.
    """
    if not isinstance(assignment, ALAAssignment):
        raise TypeError(f"ALA learns from an ALAAssignment, got {type(assignment)}")
    method, pairs = assignment.assigner, assignment.candidates
    log_score = method.log_positive_score(predictions, pairs, gts)
    label, soft = assignment.pos_weight, assignment.soft
    hard_loss = torch.where(assignment.hard, -log_score, 0.0).sum()
    cross_entropy = -label * log_score + (1 - label) * neg_log_complement(log_score.exp())
    soft_loss = torch.where(soft, cross_entropy, 0.0).sum()
    num_gts, num_pos, num_images = mean_over_ranks(
        gts.num_gts, (assignment.hard | soft).sum(), gts.num_images, like=predictions.boxes
    )
    over = num_pos if method.normalizer == "split" else num_gts
    losses = {
        "loss_hard": hard_loss / num_gts.clamp(min=1) * float(method.loss_hard_pos),
        "loss_soft": soft_loss / num_gts.clamp(min=1),
        "loss_neg": _negative_loss(predictions, assignment, gts) / over.clamp(min=1),
    }
    losses["loss_neg"] = losses["loss_neg"] * float(method.loss_neg) + _idle(predictions)
    if method.center_loss_weight > 0:
        log_prior = log_center_weight(predictions, pairs, gts)
        assert log_prior is not None
        loss = center_loss(log_prior.exp(), pairs, gts) / num_images
        losses["loss_center"] = method.center_loss_weight * loss
    return losses


def _negative_loss(
    predictions: DensePredictions, assignment: ALAAssignment, gts: GroundTruths
) -> Tensor:
    """Focal loss of S- at every point and class that is positive for no GT; the sum."""
    score = assignment.assigner.negative_score(predictions)  # (B, A, C)
    _, num_priors, num_classes = score.shape
    pairs = assignment.candidates
    flat = pairs.image * num_priors + pairs.prior
    positive = score.new_zeros(score.numel()).index_add(
        0, flat * num_classes + gts.labels[pairs.gt], 1 - assignment.neg_weight.to(score.dtype)
    )
    loss = (1 - _ALPHA) * score.pow(_GAMMA) * neg_log_complement(score)
    return torch.where(positive.view_as(score) > 0, 0.0, loss).sum()


def centerness_loss(
    predictions: DensePredictions, assignment: ALAAssignment, priors: Priors, gts: GroundTruths
) -> Tensor:
    """Binary cross-entropy to FCOS's centerness at hard and soft positives, their mean.

    Source:
        ALA, table I, names the branch only; the positives that it learns at are our choice.
    """
    pairs = assignment.candidates
    assert predictions.quality is not None
    points, boxes = priors.points[pairs.prior], gts.boxes[pairs.gt]
    left_top, right_bottom = points - boxes[:, :2], boxes[:, 2:] - points  # (N, 2), > 0
    ratio = torch.minimum(left_top, right_bottom) / torch.maximum(left_top, right_bottom)
    loss = F.binary_cross_entropy_with_logits(
        predictions.quality[pairs.image, pairs.prior].float(),
        ratio.prod(dim=1).sqrt(),
        reduction="none",
    )
    positive = assignment.hard | assignment.soft
    (num_pos,) = mean_over_ranks(positive.sum(), like=predictions.boxes)
    return torch.where(positive, loss, 0.0).sum() / num_pos.clamp(min=1)


def _idle(predictions: DensePredictions) -> Tensor:
    """Zero, with a gradient of zero for every output that the switches leave out."""
    parts = [predictions.cls, predictions.boxes, *predictions.extras.values()]
    if predictions.quality is not None:
        parts.append(predictions.quality)
    return torch.stack([part.float().sum() for part in parts]).sum() * 0


def gaussian_blur(maps: Tensor) -> Tensor:
    """(B, channels, H, W) maps convolved with a 7 x 7 Gaussian of variance 2.

    Borders are reflected; maps of fewer than 4 cells a side, which cannot be, repeat their edge.

    Source:
        ALA, Eq. 5.
    """
    offset = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=maps.device, dtype=maps.dtype)
    line = torch.exp(-(offset**2) / (2 * BLUR_VARIANCE))
    kernel = torch.outer(line, line) / line.sum() ** 2
    mode = "reflect" if min(maps.shape[-2:]) > BLUR_RADIUS else "replicate"
    padded = F.pad(maps.flatten(0, 1)[:, None], [BLUR_RADIUS] * 4, mode=mode)
    return F.conv2d(padded, kernel[None, None]).view_as(maps)


def sample_map(maps: Tensor, cells: Tensor) -> Tensor:
    """Maps read between their cells, linearly; beyond the border the border's value.

    Args:
        maps: (B, channels, H, W).
        cells: (A, 2) x (column) and y (row), cell centres at whole numbers.

    Returns:
        (B, channels, A).
    """
    height, width = maps.shape[-2:]
    size = torch.stack([cells.new_full((), extent) for extent in (width, height)])
    grid = ((2 * cells + 1) / size - 1).expand(len(maps), 1, -1, 2)  # cell j at (2 j + 1) / W - 1
    return F.grid_sample(
        maps, grid.to(maps.dtype), mode="bilinear", padding_mode="border", align_corners=False
    ).squeeze(2)
