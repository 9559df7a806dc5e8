"""What goes into a network, and what a step leaves behind: plain records."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assigners.types import (
    Assignment,
    Candidates,
    CostTable,
    DensePredictions,
    GroundTruths,
    HardAssignment,
    Priors,
    Step,
)
from orchestrator.batch import Batch
from orchestrator.config import RunConfig
from orchestrator.datasets import PreparedData
from orchestrator.exchange import PackedTable
from orchestrator.pair_weights import pair_weights
from orchestrator.switching import Choice


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """All that an actor needs to become one rank of a network."""

    name: str
    config: RunConfig
    data: PreparedData
    iterations_per_epoch: int
    max_iterations: int
    rank: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a learner tells the controller about one micro-batch: host numbers only."""

    network: str
    rank: int
    losses: dict[str, float]
    lr: float
    num_pos: int
    num_gts: int
    num_images: int
    skipped: bool
    """Under fp16: a non-finite gradient, so the optimizer did not step."""
    taught: dict[str, float]
    """Share of the switch's decisions that each network won (empty in self-assignment)."""
    stats: dict[str, float]
    """Assigner counts (mixtures that could not be fitted, ...) and the switch's mean indicators."""
    seconds: dict[str, float]
    """forward, wait, exchange, assign, backward, step."""
    payload_bytes: int
    """Bytes of costs and soft labels read from other networks."""
    sample: dict[str, np.ndarray] | None = None
    """Sampled pairs for ``assignments.parquet`` where this step was asked for them."""


@dataclass(kw_only=True)
class Pending:
    """What stays on the device between ``begin_step`` and ``finish_step``."""

    batch: Batch
    step: Step
    gts: GroundTruths
    priors: Priors
    outs: Any
    predictions: DensePredictions
    candidates: Candidates
    table: CostTable | None
    digest: str
    context: contextlib.ExitStack
    """Holds DDP's ``no_sync`` from the forward to the backward pass."""
    seconds: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0


SAMPLED_PAIRS = 4096
"""Rows of one sample at most, unless its first image alone has more."""


def sample_pairs(
    spec: NetworkSpec,
    pending: Pending,
    choice: Choice | None,
    tables: Sequence[PackedTable],
    assignment: Assignment | None,
) -> dict[str, np.ndarray]:
    """The pairs of the batch's first images: who is candidate of which GT, cost and weight.

    As many whole images as ``SAMPLED_PAIRS`` holds, one at least. ``gt_area`` is in square pixels
    of the network's input.
    """
    pairs, gts = pending.candidates, pending.gts
    image = pairs.image.cpu().numpy()
    ends = np.searchsorted(image, np.arange(gts.num_images), "right")
    end = max([ends[0], *ends[ends <= SAMPLED_PAIRS]])
    columns = {name: getattr(pairs, name)[:end].cpu().numpy() for name in ("gt", "prior", "level")}
    columns["image_id"] = np.array(pending.batch.image_ids)[image[:end]]
    sizes = pending.batch.boxes[:, 2:] - pending.batch.boxes[:, :2]
    columns["gt_area"] = sizes.prod(axis=1)[columns["gt"]]
    columns["gt_label"] = pending.batch.labels[columns["gt"]]
    for table in tables:
        columns[f"cost_{table.network}"] = table.cost[:end]
    if pending.table is not None:
        columns[f"cost_{spec.name}"] = pending.table.cost.detach()[:end].cpu().numpy()
    if choice is not None:
        names = np.array(spec.config.readable)
        columns["teacher"] = names[choice.teacher[:end].cpu().numpy()].astype(str)
    if assignment is not None:
        weights = pair_weights(assignment, pairs, pending.predictions, gts)
        columns["pos_weight"], columns["neg_weight"] = (w[:end].cpu().numpy() for w in weights)
    if isinstance(assignment, HardAssignment):
        columns["positive"] = columns["pos_weight"] > 0
    return columns
