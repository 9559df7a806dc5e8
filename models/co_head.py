"""What an mmdet head must offer to learn from an assignment that somebody else made.

A step with a ``CoHead`` is: forward -> ``build_priors`` and ``dense_predictions`` -> an assigner ->
``loss_from_assignment``. The head's own ``loss_by_feat`` walks the same path with its own assigner,
so a co-trained and a plain detector share every line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from torch import Tensor

from assigners.types import Assignment, DensePredictions, GroundTruths, Priors
from models.prior_grid import RECENT_GRIDS, Recent, grid_key, one_image

FeatureSizes = Sequence[tuple[int, int]]


class CoHead:
    """Mixin for dense heads: the interface between a network's outputs and co-training.

    The grids of the last feature sizes are kept, so the ``prior_generator`` must not change once
    priors were built. They are no part of state, copies and pickles of the head.
    """

    prior_generator: Any

    assignment_kind: ClassVar[str]
    """``"hard"`` or ``"soft"``: the form of assignment that ``loss_from_assignment`` takes."""

    seeded_fields: ClassVar[tuple[str, ...]] = ()
    """Constructor fields that are the run's seed, equal in all its networks, unless given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._grids: Recent[Priors] = Recent(RECENT_GRIDS)

    @property
    def anchor_seed(self) -> int | None:
        """What tells several priors of one location apart: the seed that their initial boxes were
        drawn from, so that slot k means the same in networks of one seed. None: nothing does.
        """
        return None

    def build_priors(
        self, featmap_sizes: FeatureSizes, batch_img_metas: Sequence[Mapping[str, Any]], device: Any
    ) -> Priors:
        """The prior grid of a batch; here all priors are valid.

        Batches of one size share its tensors (all but ``valid``): only read them.

        Args:
            featmap_sizes: (height, width) of each level.
            batch_img_metas: mmdet's metas, one per image, with ``img_shape`` and ``pad_shape``.
            device: of the tensors.
        """
        grid = self.prior_grid(featmap_sizes, device)
        valid = grid.valid.new_ones(len(batch_img_metas), grid.num_priors)
        return replace(grid, valid=valid)

    def prior_grid(self, featmap_sizes: FeatureSizes, device: Any) -> Priors:
        """The priors of one image without padding, built once per sizes and device.

        Args:
            featmap_sizes: (height, width) of each level.
            device: of the tensors.
        """
        return self._grids.get(
            grid_key(featmap_sizes, device),
            lambda: one_image(
                self.prior_levels(featmap_sizes, device), self.prior_generator.strides
            ),
        )

    def prior_levels(self, featmap_sizes: FeatureSizes, device: Any) -> list[Tensor]:
        """(A_l, 2) points or (A_l, 4) anchors of each level, in pixels, newly built."""
        levels: list[Tensor] = self.prior_generator.grid_priors(featmap_sizes, device=device)
        return levels

    def dense_predictions(self, outs: Sequence[Any], priors: Priors) -> DensePredictions:
        """The head's raw outputs in the common form, float32, with gradient.

        Args:
            outs: what ``forward`` returned: lists over levels.
        """
        raise NotImplementedError

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
        """The losses of this rank's images under a given assignment.

        Every parameter of the head enters the sum, times 0 where it has nothing to learn.
        Normalisers are averaged over the ranks of the network (a collective call: all ranks take
        part), so that ranks together equal one rank with the whole batch.

        Args:
            predictions: of ``dense_predictions``, with their autograd graph.
            outs: the raw outputs they were made of.
            assignment: in the form of ``assignment_kind``.
            taught: the assignment comes from co-training rather than from this network alone.

        Returns:
            float32 scalars whose sum is to be minimised.
        """
        raise NotImplementedError

    def plain_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of mmdet's own head with the same parameters and inference.

        Args:
            config: what this head was built from.

        Raises:
            ValueError: mmdet has no such head.
        """
        kind = config["type"]
        plain = {ours: theirs for theirs, ours in CO_HEADS.items()}.get(kind)
        if plain is None:
            raise ValueError(f"mmdet has no counterpart of {kind}")
        return {**{k: v for k, v in config.items() if k != "assigner"}, "type": plain}


def location_priors(head: Any) -> Priors:
    """The priors of the first location of each level of a Co* head.

    All others are these, shifted by multiples of the stride: two heads for which they are equal
    have the same prior grid.
    """
    levels = len(head.prior_generator.strides)
    meta = dict(img_shape=(1, 1), pad_shape=(1, 1))
    priors: Priors = head.build_priors([(1, 1)] * levels, [meta], "cpu")
    return priors


def flatten_levels(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Levels of (B, channels, H, W) -> (B, A, channels) float32, level-major, then row, column."""
    return torch.cat(
        [level.float().permute(0, 2, 3, 1).flatten(1, 2) for level in maps], dim=1
    ).reshape(maps[0].shape[0], -1, channels)


def ground_truths(
    batch_gt_instances: Sequence[Any],
    batch_img_metas: Sequence[Mapping[str, Any]],
    device: torch.device | str,
) -> GroundTruths:
    """mmdet's GT instances as one batch of GTs."""
    return GroundTruths.from_lists(
        [get_box_tensor(instances.bboxes) for instances in batch_gt_instances],
        [instances.labels for instances in batch_gt_instances],
        [tuple(meta["img_shape"][:2]) for meta in batch_img_metas],
        device=device,
    )


def mean_over_ranks(*values: Tensor | float, like: Tensor) -> list[Tensor]:
    """Scalars averaged over the ranks of this network, in one collective call.

    Returns:
        Detached float32 scalars on the device of ``like``.
    """
    stacked = torch.stack(
        [
            value.detach().to(like.device, torch.float32)
            if isinstance(value, Tensor)
            else torch.full((), float(value), dtype=torch.float32, device=like.device)
            for value in values
        ]
    )
    return list(reduce_mean(stacked).unbind())


CO_HEADS = {"PAAHead": "CoPAAHead", "AutoAssignHead": "CoAutoAssignHead"}
"""Heads of mmdet and ours with the same parameters, which can learn from a given assignment."""


def co_head_type(head_type: str) -> str:
    """Our counterpart of an mmdet head, or the type itself where there is none."""
    return CO_HEADS.get(head_type, head_type)
