"""The prior grid of a run, and each network's predictions on it.

The grid is the learners'. A frozen teacher of any family predicts per location, so it needs the
same locations (strides, one prior each, padding) and the same classes, not the same anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from assigners.types import DensePredictions, Priors
from orchestrator.building import build_head
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError, ModelError


@dataclass(frozen=True, kw_only=True)
class GridDescription:
    """What must agree between networks whose costs are compared."""

    learner: bool
    strides: tuple[int, ...]
    priors_per_location: int
    anchor_seed: int | None
    """What several priors of a location were drawn from; None where nothing tells them apart."""
    num_classes: int
    pad_size_divisor: int
    priors: str | None
    """Each level's first prior in words, equal on all learners; None for a frozen teacher."""


class View(Protocol):
    """A network's raw outputs, read on the run's prior grid."""

    def __call__(
        self, outs: Any, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> tuple[Priors, DensePredictions]:
        """The run's priors of this batch, and this network's predictions for them."""
        ...

    def describe(self, model: Mapping[str, Any]) -> GridDescription:
        """The network's grid; ``model`` is the mmdet dict it was built from."""
        ...


class LearnerView:
    """A learner: its own grid is the run's.

    Raises:
        ConfigError: the head cannot learn from a given assignment.
    """

    def __init__(self, name: str, head: nn.Module) -> None:
        if getattr(head, "assignment_kind", None) is None:
            raise ConfigError(
                f"networks.{name}: head {type(head).__name__} cannot train on a given assignment; "
                "use one of our Co* heads, or learner=False and a checkpoint to let it teach"
            )
        self.name = name
        self.head: Any = head

    def __call__(
        self, outs: Any, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> tuple[Priors, DensePredictions]:
        sizes = [tuple(level.shape[-2:]) for level in outs[0]]
        priors = self.head.build_priors(sizes, batch_img_metas, outs[0][0].device)
        return priors, self.head.dense_predictions(outs, priors)

    def describe(self, model: Mapping[str, Any]) -> GridDescription:
        from models.co_head import location_priors

        try:
            priors = location_priors(self.head)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ModelError(
                f"networks.{self.name}.model.bbox_head.anchor_generator gives no priors: "
                f"{type(error).__name__}: {error}"
            ) from error
        starts = [sum(priors.level_sizes[:level]) for level in range(len(priors.level_sizes))]
        return GridDescription(
            learner=True,
            strides=tuple(int(priors.strides[start]) for start in starts),
            priors_per_location=max(priors.level_sizes),
            anchor_seed=self.head.anchor_seed,
            num_classes=int(self.head.num_classes),
            pad_size_divisor=_pad_divisor(model),
            priors=_in_words(priors),
        )


class TeacherView:
    """A frozen network of any family: its predictions per location, at the learners' priors.

    Args:
        name: the network's name.
        head: its head.
        grid_head: the head of a learner, which gives the run's priors.

    Raises:
        ModelError: the head cannot teach.
    """

    def __init__(self, name: str, head: nn.Module, grid_head: nn.Module) -> None:
        from models.teachers import teacher_adapter

        self.name = name
        try:
            self.adapter = teacher_adapter(head)
        except ValueError as error:
            raise ModelError(f"networks.{name} cannot teach: {error}") from error
        self.grid_head: Any = grid_head

    def __call__(
        self, outs: Any, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> tuple[Priors, DensePredictions]:
        sizes = [tuple(level.shape[-2:]) for level in outs[0]]
        priors = self.grid_head.build_priors(sizes, batch_img_metas, outs[0][0].device)
        predictions = self.adapter.dense_predictions(outs, batch_img_metas)
        expected = (priors.num_images, priors.num_priors, 4)
        if tuple(predictions.boxes.shape) != expected:
            raise ModelError(
                f"networks.{self.name}: its adapter {type(self.adapter).__name__} gives boxes of "
                f"shape {tuple(predictions.boxes.shape)}, but the run's prior grid has {expected}"
            )
        return priors, predictions

    def describe(self, model: Mapping[str, Any]) -> GridDescription:
        try:
            strides = self.adapter.strides
        except ValueError as error:
            raise ModelError(f"networks.{self.name} cannot teach: {error}") from error
        return GridDescription(
            learner=False,
            strides=strides,
            priors_per_location=self.adapter.priors_per_location,
            anchor_seed=self.adapter.anchor_seed,
            num_classes=self.adapter.num_classes,
            pad_size_divisor=_pad_divisor(model),
            priors=None,
        )


def build_view(name: str, config: RunConfig, head: nn.Module, num_classes: int) -> View:
    """The view of a network: a learner's own, or a frozen one's on the first learner's grid.

    Raises:
        ConfigError, ModelError: the head can neither learn nor teach.
    """
    if config.networks[name].learner:
        return LearnerView(name, head)
    first = config.learners[0]
    grid_head = build_head(first, config.networks[first], num_classes)
    return TeacherView(name, head, LearnerView(first, grid_head).head)


def check_compatible(grids: Mapping[str, GridDescription]) -> None:
    """Refuse networks whose costs would not speak of the same priors.

    Learners must have the same priors; a frozen teacher the same locations and classes. Several
    priors per location must mean the same in both: initial boxes drawn from the same seed.

    Raises:
        ModelError: naming the two networks, the differing property, both values and what to do.
    """
    first = next((name for name, grid in grids.items() if grid.learner), next(iter(grids)))
    for name, grid in grids.items():
        fields = ["num_classes", "strides", "priors_per_location", "anchor_seed"]
        fields.append("pad_size_divisor")
        if grid.learner:
            fields.append("priors")
        for field in fields:
            ours, theirs = getattr(grid, field), getattr(grids[first], field)
            if ours != theirs:
                raise ModelError(
                    f"networks.{name} and networks.{first} cannot be compared: {field} is {ours} "
                    f"and {theirs}; {_remedy(field, name, learner=grid.learner)}"
                )

    count = grids[first].priors_per_location
    if len(grids) > 1 and count > 1 and grids[first].anchor_seed is None:
        raise ModelError(
            f"networks {list(grids)} cannot be compared: nothing tells their {count} priors per "
            "location apart; set bbox_head.num_anchors = 1, or use CoMuSuHead, whose slots start "
            "as boxes drawn from anchor_seed"
        )


def _remedy(field: str, name: str, *, learner: bool) -> str:
    if field == "pad_size_divisor":
        return (
            f"set networks.{name}.model.data_preprocessor.pad_size_divisor (it is not learned) "
            "to the same number"
        )
    if field == "anchor_seed":
        return (
            "slots of a location must start as the same boxes in all networks: set "
            "model.bbox_head.anchor_seed of those that start from random weights to that number "
            "of the others (a checkpoint keeps the seed of its run)"
        )
    if field == "priors_per_location":
        return (
            "networks with several priors per location learn only from those with the same number: "
            f"set networks.{name}.model.bbox_head.num_anchors, or take another network"
        )
    if learner:
        return "all learners of a run need the same priors"
    if field == "num_classes":
        return "a teacher must know the classes of the data, in the same order"
    return (
        "a teacher predicts at the learners' locations: take another teacher, or give the learners "
        "these (strides 8, 16, 32 with RTMDet: docs/teachers.md)"
    )


def _in_words(priors: Priors) -> str:
    """The first location's priors of each level, such as ``8: [-32, -32, 32, 32]``."""
    shown = priors.points if priors.boxes is None else priors.boxes
    rows = zip(priors.strides.tolist(), shown.tolist())
    return "; ".join(f"{stride:g}: [{', '.join(f'{x:g}' for x in row)}]" for stride, row in rows)


def _pad_divisor(model: Mapping[str, Any]) -> int:
    return int((model.get("data_preprocessor") or {}).get("pad_size_divisor", 1))
