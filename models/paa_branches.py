"""Branches that couple PAA's classification with its regression tower: COP and IOP.

Both predict an objectness from the regression tower and multiply it into the class probability. It
has no target of its own: the classification loss trains it. Either goes with or without the IoU
branch, in training and at inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import PAAHead
from mmengine.model import BaseModule, bias_init_with_prob, normal_init
from mmengine.structures import InstanceData
from torch import Tensor, nn

AUX_IOU = ("none", "train_only", "train_and_test")
WINDOW = 3
"""COP looks at the 3 x 3 neighbours of a position."""
BIAS_PRIOR = 1e-4
"""Initial probability that IOP subtracts from each class."""


def cop_probability(cls_logits: Tensor, coefficients: Tensor) -> Tensor:
    """Conditional objectness: mean over the neighbours of objectness times class probability.

    Args:
        cls_logits: (B, C, H, W).
        coefficients: (B, 9, H, W) logits at each position for its neighbours, row by row; shared by
            all classes.

    Returns:
        (B, C, H, W) probabilities, float32 or wider. A neighbour outside the map counts with class
        probability 0.5.

    Source:
        LAD, app. A, eq. 4. The border is the reference code's: it pads the logits with zeros.
    """
    objectness = _wide(coefficients).sigmoid()
    padded = F.pad(_wide(cls_logits).sigmoid(), [WINDOW // 2] * 4, value=0.5)
    height, width = cls_logits.shape[-2:]
    total = torch.zeros_like(padded[..., :height, :width])
    for k in range(WINDOW**2):  # shifted views: no copy of nine neighbours
        top, left = divmod(k, WINDOW)
        window = padded[..., top : top + height, left : left + width]
        total = total + objectness[:, k : k + 1] * window
    return total / WINDOW**2


def iop_probability(cls_logits: Tensor, objectness: Tensor, bias: Tensor | None) -> Tensor:
    """Implicit objectness: class probability above a learned floor, times objectness.

    Args:
        cls_logits: (B, C, H, W).
        objectness: (B, 1, H, W) logits.
        bias: (B, 1, H, W) logits of the floor; None: the plain product.

    Returns:
        (B, C, H, W) probabilities, float32 or wider; exactly 0, without gradient, at or below the
        floor.

    Source:
        LAD, app. A.2, as AutoAssign's objectness. Reference code differs: the papers have the plain
        product; it subtracts the floor, and so do we unless asked for the product.
    """
    above = _wide(cls_logits).sigmoid()
    if bias is not None:
        above = (above - _wide(bias).sigmoid()).relu()
    return above * _wide(objectness).sigmoid()


def _wide(logits: Tensor) -> Tensor:
    """Products of half-precision probabilities would lose what the focal loss looks at."""
    return logits if logits.dtype == torch.float64 else logits.float()


class ConditionalObjectness(BaseModule):
    """COP: one convolution for nine coefficients. Takes class logits and regression features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficients = nn.Conv2d(channels, WINDOW**2, 3, padding=1)

    def init_weights(self) -> None:
        normal_init(self.coefficients, std=0.01)

    def forward(self, cls_logits: Tensor, features: Tensor) -> Tensor:
        return cop_probability(cls_logits, self.coefficients(features))


class ImplicitObjectness(BaseModule):
    """IOP: convolutions for objectness and floor. Takes class logits and regression features."""

    def __init__(self, channels: int, floor: bool = True) -> None:
        super().__init__()
        self.objectness = nn.Conv2d(channels, 1, 3, padding=1)
        self.bias = nn.Conv2d(channels, 1, 3, padding=1) if floor else None

    def init_weights(self) -> None:
        normal_init(self.objectness, std=0.01)
        if self.bias is not None:
            normal_init(self.bias, std=0.01, bias=bias_init_with_prob(BIAS_PRIOR))

    def forward(self, cls_logits: Tensor, features: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias(features)
        return iop_probability(cls_logits, self.objectness(features), bias)


class BranchedPAAHead(PAAHead):
    """mmdet's ``PAAHead`` with a choice of auxiliary branches; the defaults are mmdet's head.

    With COP or IOP, ``forward`` gives class probabilities instead of logits; without the IoU branch
    its third output is a list of None. No convolution is built that nothing uses.

    Args:
        aux_iou: ``"none"`` (or None, which is how the command line reads the word);
            ``"train_only"``: trained but left out of the score at inference; ``"train_and_test"``.
        aux_iop: implicit objectness.
        iop_floor: subtract a learned floor from the class probability there, as the released code
            does; the text has the plain product.
        aux_cop: conditional objectness.

    Raises:
        ValueError: unknown ``aux_iou``, COP and IOP at once, or no floor without IOP.

    Source:
        LAD, app. A, table 10. Reference code differs: its COP head also builds an objectness
        convolution that it never uses.
    """

    def __init__(
        self,
        *args: Any,
        aux_iou: str | None = "train_and_test",
        aux_iop: bool = False,
        iop_floor: bool = True,
        aux_cop: bool = False,
        **kwargs: Any,
    ) -> None:
        aux_iou = "none" if aux_iou is None else aux_iou
        if aux_iou not in AUX_IOU:
            raise ValueError(f"bbox_head.aux_iou {aux_iou!r}: expected one of {AUX_IOU}")
        if aux_iop and aux_cop:
            raise ValueError(
                "bbox_head: aux_iop and aux_cop both replace the class probability; set one of them"
            )
        if not (iop_floor or aux_iop):
            raise ValueError("bbox_head.iop_floor=False is IOP's: set aux_iop=True or leave it out")
        self.aux_iou, self.aux_iop, self.aux_cop = aux_iou, aux_iop, aux_cop
        self.iop_floor = iop_floor
        super().__init__(*args, **kwargs)

    @property
    def gives_probabilities(self) -> bool:
        """Whether the class maps of ``forward`` are probabilities."""
        return self.aux_iop or self.aux_cop

    @property
    def is_plain(self) -> bool:
        """Whether this is mmdet's head, branch for branch."""
        return not self.gives_probabilities and self.aux_iou == "train_and_test"

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.aux_iou == "none":
            del self.atss_centerness
        if self.aux_cop:
            self.objectness: nn.Module = ConditionalObjectness(self.feat_channels)
        elif self.aux_iop:
            self.objectness = ImplicitObjectness(self.feat_channels, self.iop_floor)

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class logits or probabilities, box deltas, IoU logits or None of one level."""
        if self.is_plain:
            outputs: tuple[Tensor, Tensor, Tensor | None] = super().forward_single(x, scale)
            return outputs
        cls_feat, reg_feat = x, x
        for conv in self.cls_convs:
            cls_feat = conv(cls_feat)
        for conv in self.reg_convs:
            reg_feat = conv(reg_feat)
        cls = self.atss_cls(cls_feat)
        if self.gives_probabilities:
            cls = self.objectness(cls, reg_feat)
        iou = None if self.aux_iou == "none" else self.atss_centerness(reg_feat)
        return cls, scale(self.atss_reg(reg_feat)).float(), iou

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: Sequence[Tensor | None] | None = None,
        **kwargs: Any,
    ) -> list[InstanceData]:
        """mmdet's, for any choice of branches."""
        if self.aux_iou == "none":
            score_factors = None
        results: list[InstanceData] = super().predict_by_feat(
            cls_scores, bbox_preds, score_factors, **kwargs
        )
        return results

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: Sequence[Tensor | None],
        mlvl_priors: list[Tensor],
        img_meta: dict[str, Any],
        cfg: Any = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Detections of one image; the score is sqrt(p * IoU), or p where the IoU is left out."""
        levels = cls_score_list, bbox_pred_list, score_factor_list, mlvl_priors
        if self.is_plain:
            return super()._predict_by_feat_single(*levels, img_meta, cfg, rescale, with_nms)
        cfg = self.test_cfg if cfg is None else cfg
        boxes, squares = [], []
        for cls, deltas, quality, priors in zip(*levels):
            square = self._squared_scores(cls, quality)  # (A of the level, C)
            deltas = deltas.permute(1, 2, 0).reshape(-1, 4)
            if 0 < cfg.get("nms_pre", -1) < len(square):
                keep = square.amax(1).topk(cfg.nms_pre).indices
                square, deltas, priors = square[keep], deltas[keep], priors[keep]
            squares.append(square)
            boxes.append(self.bbox_coder.decode(priors, deltas, max_shape=img_meta["img_shape"]))
        results = InstanceData(bboxes=torch.cat(boxes), scores=torch.cat(squares))
        results.score_factors = torch.ones_like(results.scores[:, 0])
        return self._bbox_post_process(results, cfg, rescale, with_nms, img_meta)

    def _squared_scores(self, cls: Tensor, quality: Tensor | None) -> Tensor:
        """(A, C) squares of the scores: mmdet's post-processing takes the root.

        In binary floating point the root of a square is the number itself, exactly.
        """
        prob = cls.float().permute(1, 2, 0).flatten(0, 1)
        if not self.gives_probabilities:
            prob = prob.sigmoid()
        if self.aux_iou != "train_and_test":
            return prob.square()
        assert quality is not None
        return prob * quality.float().permute(1, 2, 0).reshape(-1, 1).sigmoid()
