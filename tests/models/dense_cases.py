"""All our heads, narrow, and their steps from features to losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assigners.types import Assignment, Candidates, CostTable, GroundTruths, Priors, Step

from . import head_cases, point_cases
from .point_cases import CLASSES, LEVELS

TOWERS = dict(feat_channels=16, stacked_convs=2)
HEADS: dict[str, dict[str, Any]] = {
    "PAA": dict(type="CoPAAHead"),
    "DW": dict(type="CoDWHead"),
    "DW refined": dict(type="CoDWHead", box_refine=True),
    "DW on TOOD": dict(type="CoDWTOODHead", **TOWERS),
    "AutoAssign": dict(type="CoAutoAssignHead"),
    "ALA": dict(type="CoALAHead"),
    "ALA centerness": dict(type="CoALAHead", objectness="centerness"),
    "MuSu": dict(type="CoMuSuHead"),
    "MuSu three": dict(type="CoMuSuHead", num_anchors=3),
}
STEP = Step(iteration=1, max_iterations=10)


def build(name: str, **fields: Any) -> Any:
    """A narrow head with three levels and its initial weights."""
    config = HEADS[name]
    if config["type"] == "CoPAAHead":
        from models.paa_head import CoPAAHead

        torch.manual_seed(0)
        head: Any = CoPAAHead(**head_cases.head_config(**fields))
    else:
        kind = config["type"]
        rest = {key: value for key, value in config.items() if key != "type"}
        head = point_cases.build_head(kind, **{**rest, **fields})
    head.init_weights()
    return head


class HeadStep:
    """One step of a head alone, in the two parts that an orchestrated one has.

    Args:
        head: of ``build``.
        images: which of the images of ``point_cases``.
    """

    def __init__(self, head: Any, images: list[int]) -> None:
        from models.co_head import ground_truths

        self.head = head
        self.features: list[Tensor] = point_cases.make_features(images)
        self.metas = point_cases.make_metas(len(images))
        self.gts: GroundTruths = ground_truths(
            point_cases.make_instances(images), self.metas, "cpu"
        )

    def begin(self) -> tuple[Candidates, CostTable]:
        """Forward, priors, predictions, candidates and costs."""
        head = self.head
        self.outs = head(self.features)
        self.priors: Priors = head.build_priors(LEVELS, self.metas, self.features[0].device)
        self.predictions = head.dense_predictions(self.outs, self.priors)
        with torch.no_grad():
            self.candidates = head.own_assigner.candidates(self.priors, self.gts)
        self.table = head.own_assigner.costs(self.predictions, self.candidates, self.gts)
        return self.candidates, self.table

    def assign(self) -> Assignment:
        """The head's own assignment."""
        self.assignment: Assignment = self.head.own_assigner.assign(
            self.table,
            self.candidates,
            self.priors,
            self.gts,
            num_classes=CLASSES,
            step=STEP,
            live=self.table,
        )
        return self.assignment

    def losses(self) -> dict[str, Tensor]:
        """The losses under it."""
        found: dict[str, Tensor] = self.head.loss_from_assignment(
            self.predictions, self.outs, self.assignment, self.priors, self.gts, taught=False
        )
        return found
