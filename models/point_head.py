"""The dense head that the point-based methods share: towers of convolutions, no anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmcv.cnn import Scale
from mmdet.models.dense_heads.anchor_free_head import AnchorFreeHead
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from mmdet.models.utils import multi_apply
from torch import Tensor, nn

from assigners import Assigner, build_assigner
from assigners.types import DensePredictions, Priors, Step
from models.co_head import CoHead, flatten_levels, ground_truths


class PointGrid(MlvlPointGenerator):
    """mmdet's grid of points, with a name to compare by and several priors per location.

    Args:
        strides: of each level, in pixels.
        offset: of the points from the upper left corner of their cell, in strides.
        per_location: priors that share each point; they follow each other in the prior order.
    """

    def __init__(self, strides: Sequence[int], offset: float = 0.5, per_location: int = 1) -> None:
        super().__init__(list(strides), offset)
        self.per_location = per_location

    @property
    def num_base_priors(self) -> list[int]:
        """Priors per location of each level."""
        return [self.per_location] * len(self.strides)

    def single_level_grid_priors(self, *args: Any, **kwargs: Any) -> Tensor:
        """(H * W * per_location, 2 or 4) points of one level, row-major."""
        points = super().single_level_grid_priors(*args, **kwargs)
        return points.repeat_interleave(self.per_location, dim=0)

    def _meshgrid(self, x: Tensor, y: Tensor, row_major: bool = True) -> tuple[Tensor, Tensor]:
        yy, xx = torch.meshgrid(y, x, indexing="ij")  # mmdet's own call makes torch warn
        return (xx.flatten(), yy.flatten()) if row_major else (yy.flatten(), xx.flatten())

    def __repr__(self) -> str:
        return (
            f"PointGrid(strides={self.strides}, offset={self.offset}, "
            f"per_location={self.per_location})"
        )


class CoPointHead(CoHead, AnchorFreeHead):
    """FCOS-like head without anchors; DW, AutoAssign, ALA and MuSu derive from it.

    ``forward`` returns lists over levels: class logits (B, k C, H, W), distances to the four sides
    in pixels (B, k 4, H, W) float32 and, with an objectness branch, its logits (B, k, H, W), where
    k is ``num_anchors``. Parameters have
    mmdet's FCOS names (the objectness branch is ``conv_centerness``), so its checkpoints load.

    A subclass names its ``method`` and implements ``loss_from_assignment``. It may override
    ``distances`` (another activation), ``refine``, ``dense_predictions`` (extras) and
    ``current_step``. All points are valid, since the references let padding learn background.

    Args:
        num_classes: C.
        in_channels: channels of the feature maps.
        strides: of each level, in pixels.
        assigner: configuration of the self-assignment; only hyper-parameters are needed.
        objectness: ``"implicit"`` multiplies sigma(objectness), read off the regression tower, into
            every class probability; ``"none"`` builds no such branch. Methods may know more kinds.
        num_anchors: k, priors per location.
        point_offset: of the points from the upper left corner of their cell, in strides.
        prior_prob: initial probability of every class.
        init_distance: initial bias of the regression, in strides where the method multiplies.
        kwargs: of mmdet's ``AnchorFreeHead``; ``conv_bias`` is True and ``norm_cfg`` is GN unless
            given.

    Raises:
        ValueError: an unknown kind of objectness, an assigner of another method, or an unknown
            hyper-parameter.

    Source:
        DW, sec. 4.1, and AutoAssign, sec. 4.1: head of FCOS with an objectness branch.
    """

    assignment_kind: ClassVar[str] = "soft"
    method: ClassVar[str]
    """Name of the method in ``assigners.ASSIGNERS``."""
    objectness_kinds: ClassVar[tuple[str, ...]] = ("implicit", "none")
    kinds_with_branch: ClassVar[tuple[str, ...]] = ("implicit",)
    """Kinds of objectness that need ``conv_centerness``."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *args: Any,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        assigner: Mapping[str, Any] | None = None,
        objectness: str = "implicit",
        num_anchors: int = 1,
        point_offset: float = 0.5,
        prior_prob: float = 0.02,
        init_distance: float = 4.0,
        conv_bias: bool | str = True,
        norm_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if objectness not in self.objectness_kinds:
            raise ValueError(
                f"bbox_head.objectness {objectness!r}: expected one of {self.objectness_kinds}"
            )
        self.objectness, self.num_anchors = objectness, num_anchors
        kwargs.setdefault("loss_cls", dict(type="FocalLoss", use_sigmoid=True))
        kwargs.setdefault("init_cfg", _init_cfg(prior_prob, init_distance))
        super().__init__(
            num_classes,
            in_channels,
            *args,
            strides=strides,
            conv_bias=conv_bias,
            norm_cfg=dict(norm_cfg or dict(type="GN", num_groups=32, requires_grad=True)),
            **kwargs,
        )
        self.prior_generator = PointGrid(strides, point_offset, num_anchors)
        self.num_base_priors = num_anchors
        self.own_assigner = own_assigner(self.method, assigner)

    @property
    def has_objectness(self) -> bool:
        """Whether ``forward`` returns objectness logits."""
        return self.objectness in self.kinds_with_branch

    def _init_predictor(self) -> None:
        width, count = self.feat_channels, self.num_anchors
        self.conv_cls = nn.Conv2d(width, count * self.cls_out_channels, 3, padding=1)
        self.conv_reg = nn.Conv2d(width, count * 4, 3, padding=1)
        if self.has_objectness:
            self.conv_centerness = nn.Conv2d(width, count, 3, padding=1)
        self.scales = nn.ModuleList([Scale(1.0) for _ in self.strides])

    # -- forward --------------------------------------------------------------------------------

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Raw outputs of all levels; see the class."""
        return multi_apply(self.forward_single, x, self.scales, self.strides)

    def forward_single(self, x: Tensor, scale: Scale, stride: int) -> tuple[Tensor, ...]:
        """Class logits, distances and, where built, objectness logits of one level."""
        cls_score, bbox_pred, _, reg_feat = super().forward_single(x)
        distances = self.distances(scale(bbox_pred).float(), stride)
        distances = self.refine(distances, reg_feat, stride)
        if not self.has_objectness:
            return cls_score, distances
        return cls_score, distances, self.conv_centerness(reg_feat)

    def distances(self, raw: Tensor, stride: int) -> Tensor:
        """Distances in pixels, >= 0, of the scaled raw regression (B, k 4, H, W)."""
        return raw.clamp(min=0) * stride

    def refine(self, distances: Tensor, reg_feat: Tensor, stride: int) -> Tensor:
        """Better distances from those of the whole map; nothing here.

        Args:
            distances: (B, k 4, H, W) in pixels.
            reg_feat: (B, feat_channels, H, W), the regression tower's output.
        """
        return distances

    # -- the co-training interface --------------------------------------------------------------

    def dense_predictions(self, outs: Sequence[Any], priors: Priors) -> DensePredictions:
        """Class logits, decoded boxes and objectness logits on the prior grid."""
        distances = flatten_levels(outs[1], 4)  # (B, A, 4)
        points = priors.points.expand(*distances.shape[:2], 2)
        objectness = outs[2] if self.has_objectness else None
        return DensePredictions(
            cls=flatten_levels(outs[0], self.cls_out_channels),
            boxes=self.bbox_coder.decode(points, distances),
            quality=None if objectness is None else flatten_levels(objectness, 1).squeeze(-1),
            quality_kind="none" if objectness is None else "objectness",
        )

    def current_step(self) -> Step:
        """Where plain training stands; methods with a schedule override this."""
        return Step(iteration=0, max_iterations=1)

    # -- plain training and inference ----------------------------------------------------------

    def get_targets(self, *args: Any, **kwargs: Any) -> Any:
        """Not part of this head: targets are an ``Assignment``.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("targets of point-based heads come from their assigner")

    def loss_by_feat(self, *inputs: Any) -> dict[str, Tensor]:
        """Self-assignment: the plain detector, called as mmdet calls its heads.

        Args:
            inputs: what ``forward`` returned, then GT instances, image metas and ignored boxes
                (without effect, as in the references).
        """
        *outs, batch_gt_instances, batch_img_metas, _ = inputs
        return self_assignment_losses(
            self, outs, batch_gt_instances, batch_img_metas, self.current_step()
        )

    def predict_by_feat(
        self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], *args: Any, **kwargs: Any
    ) -> Any:
        """mmdet's inference with the product of class and objectness as the score throughout.

        Args:
            args: objectness logits of each level where that branch exists, then mmdet's own.

        Returns:
            One ``InstanceData`` per image: threshold and top ``nms_pre`` of each level on the
            product, boxes clipped to the image, empty ones dropped, NMS by class.

        Source:
            DW and AutoAssign; mmdet differs for factors: it applies the threshold before them.
        """
        if self.has_objectness:
            objectness, *rest = args
            cls_scores = [joint_logits(*maps) for maps in zip(cls_scores, objectness)]
            args = tuple(rest)
        distances = [level.float() for level in bbox_preds]
        return super().predict_by_feat(cls_scores, distances, None, *args, **kwargs)


def self_assignment_losses(
    head: Any,
    outs: Sequence[Any],
    batch_gt_instances: Sequence[Any],
    batch_img_metas: Sequence[Mapping[str, Any]],
    step: Step,
) -> dict[str, Tensor]:
    """The plain detector's losses: ``head.own_assigner`` on the head's own predictions."""
    device = outs[0][0].device
    priors = head.build_priors([level.shape[-2:] for level in outs[0]], batch_img_metas, device)
    gts = ground_truths(batch_gt_instances, batch_img_metas, device)
    predictions = head.dense_predictions(outs, priors)
    with torch.no_grad():
        candidates = head.own_assigner.candidates(priors, gts)
    table = head.own_assigner.costs(predictions, candidates, gts)
    assignment = head.own_assigner.assign(
        table,
        candidates,
        priors,
        gts,
        num_classes=head.num_classes,
        step=step,
        live=table,
    )
    losses: dict[str, Tensor] = head.loss_from_assignment(
        predictions, outs, assignment, priors, gts, taught=False
    )
    return losses


def own_assigner(method: str, config: Mapping[str, Any] | None) -> Assigner:
    """A head's self-assignment by ``method`` with the given hyper-parameters.

    Raises:
        ValueError: the configuration names another method, or an unknown hyper-parameter.
    """
    fields = {"type": method, **(config or {})}
    if fields["type"] != method:
        raise ValueError(f"bbox_head.assigner.type: expected {method!r}, got {fields['type']!r}")
    return build_assigner(fields)


def joint_logits(cls_score: Tensor, objectness: Tensor) -> Tensor:
    """Logits of sigma(class) * sigma(objectness), without loss of precision.

    1 / p - 1 = e^-c + e^-o + e^-(c + o), and the logit is minus its logarithm.

    Args:
        cls_score: (B, k C, H, W).
        objectness: (B, k, H, W), k priors per location.

    Returns:
        (B, k C, H, W) float32.
    """
    priors = objectness.shape[1]
    c = -cls_score.float().unflatten(1, (priors, -1))  # (B, k, C, H, W)
    o = -objectness.float().unsqueeze(2)  # (B, k, 1, H, W)
    odds = torch.logaddexp(torch.logaddexp(c, o), c + o)
    return -odds.flatten(1, 2)


def _init_cfg(prior_prob: float, init_distance: float) -> dict[str, Any]:
    """mmengine's initialisation: normal 0.01 everywhere, biases of the two predictors apart."""
    return dict(
        type="Normal",
        layer="Conv2d",
        std=0.01,
        override=[
            dict(type="Normal", name="conv_cls", std=0.01, bias_prob=prior_prob),
            dict(type="Normal", name="conv_reg", std=0.01, bias=init_distance),
        ],
    )
