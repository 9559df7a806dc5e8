"""Any dense mmdet detector as a frozen teacher: its raw outputs as predictions per location.

A teacher and a learner may be of different families: what they share is the location, (level, row,
column). So an adapter decodes a head's outputs with that head's *own* priors (anchors or points)
and the result is read at the learner's priors, which have the same index.

Several heads change the meaning of their outputs between train and eval mode; adapters look at
``head.training`` where that is so, and give the same boxes in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from mmdet.models.dense_heads import (
    ATSSHead,
    AutoAssignHead,
    FCOSHead,
    GFLHead,
    PAAHead,
    RetinaHead,
    RTMDetHead,
    RTMDetSepBNHead,
    TOODHead,
    VFNetHead,
)
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from assigners.types import DensePredictions
from models.co_head import CoHead, flatten_levels, location_priors
from models.prior_grid import RECENT_GRIDS, Recent, grid_key

LevelMaps = Sequence[Tensor]
"""One (B, channels, H, W) map per level."""
A = TypeVar("A", bound="type[TeacherAdapter]")

_MEANING = ("forward", "forward_single", "predict", "predict_by_feat", "_predict_by_feat_single")
"""Methods that decide what a head's outputs mean; a subclass that changes one is another family."""


class TeacherAdapter:
    """One family of heads. This base serves those that decode ``outs[1]`` by their box coder.

    A family that differs overrides ``box_maps`` or ``decode`` and sets the class variables.

    Args:
        head: a built mmdet head.

    Raises:
        ValueError: the head cannot teach; says why and what would.
    """

    quality_kind: ClassVar[str] = "none"
    """What the maps in ``outs[2]`` predict (``assigners.QUALITY_KINDS``); none: no such maps."""
    cls_is_prob: ClassVar[bool] = False
    """Whether ``outs[0]`` holds probabilities rather than logits."""

    def __init__(self, head: nn.Module) -> None:
        self.head: Any = head
        self._grids: Recent[tuple[Tensor, Tensor]] = Recent(RECENT_GRIDS)
        self.check()

    def check(self) -> None:
        """Refuse a head that does not give one prediction with C classes per location."""
        name = type(self.head).__name__
        if self.priors_per_location != 1:
            raise ValueError(
                f"head {name} has {self.priors_per_location} priors per location; a teacher gives "
                "one prediction per location (scales_per_octave=1 and one ratio)"
            )
        if getattr(getattr(self.head, "loss_cls", None), "custom_cls_channels", False):
            raise ValueError(
                f"head {name}: {type(self.head.loss_cls).__name__} has class channels of its own, "
                "which no adapter reads; a teacher needs a sigmoid or softmax classification"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level in pixels."""
        pairs = [_pair(stride) for stride in self.head.prior_generator.strides]
        uneven = [pair for pair in pairs if pair[0] != pair[1]]
        if uneven:
            raise ValueError(f"strides {uneven} differ between the axes, which no learner has")
        return tuple(int(pair[0]) for pair in pairs)

    @property
    def priors_per_location(self) -> int:
        return int(max(self.head.prior_generator.num_base_priors))

    @property
    def anchor_seed(self) -> int | None:
        """What tells several priors of a location apart (``CoHead.anchor_seed``)."""
        return None

    @property
    def num_classes(self) -> int:
        return int(self.head.num_classes)

    def dense_predictions(
        self, outs: Sequence[Any], batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> DensePredictions:
        """The head's raw outputs in the common form, float32.

        Args:
            outs: what the head's ``forward`` returned, in train or eval mode: lists over levels.
            batch_img_metas: mmdet's metas, one per image.

        Returns:
            Predictions per location, level-major, then row, column: (B, A, ...).
        """
        cls, is_prob = self._classes(outs[0])
        maps = self.box_maps(outs)
        sizes = [tuple(level.shape[-2:]) for level in maps]
        device = maps[0].device
        priors, strides = self._grids.get(
            grid_key(sizes, device), lambda: self._build_grid(sizes, device)
        )
        raw = flatten_levels(maps, maps[0].shape[1])  # (B, A, D)
        boxes = self.decode(raw, priors, strides)
        quality = None
        if self.quality_kind != "none":
            quality = flatten_levels(outs[2], 1).squeeze(-1)
        return DensePredictions(
            cls=cls,
            cls_is_prob=is_prob,
            boxes=boxes,
            quality=quality,
            quality_kind=self.quality_kind,
        )

    def _build_grid(
        self, sizes: Sequence[tuple[int, ...]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """(A, 4) anchors or (A, 2) points, and (A, 1) strides."""
        levels = self.head.prior_generator.grid_priors(sizes, device=device)
        strides = [
            level.new_full((len(level), 1), float(s)) for level, s in zip(levels, self.strides)
        ]
        return get_box_tensor(torch.cat(list(levels))), torch.cat(strides)

    def box_maps(self, outs: Sequence[Any]) -> LevelMaps:
        """The maps that ``decode`` makes boxes of."""
        maps: LevelMaps = outs[1]
        return maps

    def decode(self, raw: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        """Boxes in input pixels.

        Args:
            raw: (B, A, D) float32 box outputs.
            priors: (A, 4) anchors or (A, 2) points of the head itself; kept, so only read them.
            strides: (A, 1) float32, likewise.

        Returns:
            (B, A, 4) xyxy, not clipped to the image.
        """
        return self.by_coder(raw, priors)

    def by_coder(self, raw: Tensor, priors: Tensor) -> Tensor:
        """(B, A, D) as boxes, by the head's own box coder."""
        batch, count, width = raw.shape
        repeated = priors.expand(batch, -1, -1).reshape(batch * count, -1)
        decoded = self.head.bbox_coder.decode(repeated, raw.reshape(batch * count, width))
        return get_box_tensor(decoded).view(batch, count, 4)

    def _classes(self, maps: LevelMaps) -> tuple[Tensor, bool]:
        """(B, A, C) and whether they are probabilities."""
        cls = flatten_levels(maps, maps[0].shape[1])
        if getattr(self.head, "use_sigmoid_cls", True):
            return cls, self.cls_is_prob
        return cls.softmax(dim=-1)[..., :-1], True  # the last channel is background


ADAPTERS: dict[type[nn.Module], type[TeacherAdapter]] = {}
"""The adapter of each head class."""


def register_teacher(*heads: type[nn.Module]) -> Callable[[A], A]:
    """Class decorator: this adapter serves these head classes (see docs/teachers.md)."""

    def register(adapter: A) -> A:
        for head in heads:
            ADAPTERS[head] = adapter
        return adapter

    return register


# RTMDet: both heads return distances in pixels and class scores with objectness folded in.
register_teacher(RetinaHead, RTMDetHead, RTMDetSepBNHead)(TeacherAdapter)


@register_teacher(ATSSHead)
class ATSSTeacher(TeacherAdapter):
    """Anchors with deltas, and a centerness map."""

    quality_kind = "centerness"


@register_teacher(PAAHead)
class PAATeacher(TeacherAdapter):
    """Anchors with deltas, and a map of predicted IoU."""

    quality_kind = "iou"


@register_teacher(AutoAssignHead)
class AutoAssignTeacher(TeacherAdapter):
    """Points with distances in pixels (in both modes), and an implicit objectness map."""

    quality_kind = "objectness"


@register_teacher(FCOSHead)
class FCOSTeacher(TeacherAdapter):
    """Points with distances, and a centerness map.

    With ``norm_on_bbox`` distances are in strides in train mode and in pixels in eval mode.
    """

    quality_kind = "centerness"

    def decode(self, raw: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        in_strides = self.head.norm_on_bbox and self.head.training
        return self.by_coder(raw * strides if in_strides else raw, priors)


@register_teacher(VFNetHead)
class VFNetTeacher(TeacherAdapter):
    """Points with distances in pixels; class scores predict the IoU as well.

    Train mode returns the coarse boxes too, before the refined ones that inference uses.
    """

    def box_maps(self, outs: Sequence[Any]) -> LevelMaps:
        maps: LevelMaps = outs[-1]
        return maps


@register_teacher(GFLHead)
class GFLTeacher(TeacherAdapter):
    """A distribution of each distance over 0..reg_max strides; class scores predict the IoU."""

    def decode(self, raw: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        batch, count, _ = raw.shape
        distances = self.head.integral(raw).view(batch, count, 4) * strides
        return self.by_coder(distances, self.head.anchor_center(priors))


@register_teacher(TOODHead)
class TOODTeacher(TeacherAdapter):
    """Boxes decoded in the head, in strides; aligned class probabilities."""

    cls_is_prob = True

    def decode(self, raw: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        return raw * strides


class CoTeacher(TeacherAdapter):
    """One of our Co* heads: it gives the common form itself, extras included."""

    def check(self) -> None:
        """Co* heads check themselves when they are built."""

    @property
    def priors_per_location(self) -> int:
        return max(location_priors(self.head).level_sizes)

    @property
    def anchor_seed(self) -> int | None:
        seed: int | None = self.head.anchor_seed
        return seed

    def dense_predictions(
        self, outs: Sequence[Any], batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> DensePredictions:
        sizes = [tuple(level.shape[-2:]) for level in outs[0]]
        priors = self.head.build_priors(sizes, batch_img_metas, outs[0][0].device)
        predictions: DensePredictions = self.head.dense_predictions(outs, priors)
        return predictions


def teacher_adapter(head: nn.Module) -> TeacherAdapter:
    """The adapter of a built head.

    A subclass of a known head is served by its parent's adapter unless it changes what the outputs
    mean (``forward`` or the prediction methods).

    Raises:
        ValueError: no adapter, several priors per location, or another reason why it cannot teach.
    """
    if isinstance(head, CoHead):
        return CoTeacher(head)
    kind = type(head)
    for parent in kind.__mro__:
        if parent in ADAPTERS:
            changed = [m for m in _MEANING if _method(kind, m) is not _method(parent, m)]
            if changed:
                raise ValueError(
                    f"head {kind.__name__} changes {', '.join(changed)} of {parent.__name__}, so "
                    "its outputs may mean something else: register an adapter for it "
                    "(docs/teachers.md)"
                )
            return ADAPTERS[parent](head)
    known = ", ".join(sorted(cls.__name__ for cls in ADAPTERS))
    raise ValueError(
        f"head {kind.__name__} has no adapter; there are adapters for our Co* heads and {known}. "
        "A head with one prediction per location can be given one (docs/teachers.md); query-based "
        "(DETR) and two-stage detectors cannot teach"
    )


def _method(cls: type, name: str) -> Any:
    return getattr(cls, name, None)


def _pair(stride: Any) -> tuple[float, float]:
    return tuple(stride) if isinstance(stride, (tuple, list)) else (stride, stride)
