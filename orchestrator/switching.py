"""Who teaches: the choice, per group of candidates, of the network whose costs are used.

Every learner holds the cost tables of all networks and computes this choice itself. A choice is a
pure function of the tables, so all learners arrive at the same one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from assigners.mixture import fit_mixture
from assigners.types import Candidates, CostTable
from orchestrator.errors import CandidateMismatchError, ConfigError

CRITERIA = ("fixed", "std_mean", "fisher", "self")
SCOPES = ("gt_level", "gt", "image", "iteration")
FISHER_MIN_COUNT = 4
"""Smaller groups are judged by std/mean: with one sample per component Fisher's ratio explodes."""
_NARROWEST = 16  # columns of the narrowest groups that are fitted together


class Reducer(Protocol):
    """Combines the ranks of one network; all ranks call the same methods in the same order."""

    def sum(self, value: Tensor, /) -> Tensor:
        """Elementwise sum over ranks."""
        ...

    def gather(self, value: Tensor, /) -> Tensor:
        """The 1-D tensors of all ranks in rank order; lengths may differ and may be 0."""
        ...


@dataclass(frozen=True, kw_only=True)
class SwitchRule:
    """How the teacher of the moment is found."""

    criterion: str = "std_mean"
    """``"std_mean"`` (sigma/mu), ``"fisher"``, ``"fixed"`` (LAD: one teacher, no switch) or
    ``"self"`` (every network uses its own costs)."""
    scope: str = "gt_level"
    """Candidates of one decision: those of one GT on one level, of one GT, image or iteration."""
    teacher: str | None = None
    """Name of the teacher under ``"fixed"``, else None."""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ConfigError(f"switch.criterion {self.criterion!r}: expected one of {CRITERIA}")
        if self.scope not in SCOPES:
            raise ConfigError(f"switch.scope {self.scope!r}: expected one of {SCOPES}")
        if (self.criterion == "fixed") != (self.teacher is not None):
            raise ConfigError(
                f"switch.teacher {self.teacher!r} does not fit switch.criterion "
                f"{self.criterion!r}: a teacher is named under 'fixed', and only there"
            )


@dataclass(frozen=True, kw_only=True)
class Indicators:
    """Statistics of M networks' costs in each of S groups, float64."""

    count: Tensor
    """(S, M) costs that count: all rows of the group, or those a network owns."""
    mean: Tensor
    """(S, M), 0 where nothing counts."""
    std_mean: Tensor
    """(S, M) unbiased standard deviation over mean; 0 where the mean is 0 or fewer than 2 count."""
    fisher: Tensor | None = None
    """(S, M) (mu0 - mu1)^2 / (var0 + var1) of a two-component fit, or None if not asked for; 0
    below ``FISHER_MIN_COUNT``."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The outcome of a switch. Networks are counted in the order of ``names``."""

    names: tuple[str, ...]
    """The networks, in the order of the tables."""

    table: CostTable
    """Per row, cost and every column of the network chosen for that row."""
    teacher: Tensor
    """(N,) int64 network of each row; the first one where nothing was decided."""
    decisions: Tensor
    """(S,) int64 network of each group of the scope, -1 for an empty group; no element under
    ``"fixed"`` and ``"self"``, which decide nothing."""
    share: Tensor
    """(M,) float32 share of the decided groups that went to each network; 0 without decisions."""
    indicator: Tensor
    """(M,) float32 mean indicator over the groups large enough for the criterion; 0 if none is."""

    @property
    def shares(self) -> dict[str, float]:
        """``share`` by name, on the host (one synchronisation)."""
        return dict(zip(self.names, self.share.tolist()))

    @property
    def indicators(self) -> dict[str, float]:
        """``indicator`` by name, on the host (one synchronisation)."""
        return dict(zip(self.names, self.indicator.tolist()))


def choose(
    tables: Mapping[str, CostTable],
    candidates: Candidates,
    *,
    rule: SwitchRule,
    num_gts: int,
    num_images: int,
    num_levels: int | None = None,
    own: str | None = None,
    reducer: Reducer | None = None,
) -> Choice:
    """Choose a network per group and copy its rows.

    A group with two or more costs goes to the largest indicator; one with a single cost to the
    lowest cost; an empty one decides nothing. **All ties go to the network listed first**, so the
    order of ``tables`` is the order of preference as teacher: with two networks, list the released
    code's "teacher" before its "student". Fisher needs ``FISHER_MIN_COUNT`` costs; smaller groups
    use std/mean. Rows whose ``owned`` column is 0 stay out of a network's indicator (they are
    copied with the rest); a network that owns nothing in a group cannot win it.

    Args:
        tables: by network name, detached, all on the same candidates.
        rule: criterion and scope.
        num_gts: G of the batch.
        num_images: B of the batch.
        num_levels: L; None costs a synchronisation to find it.
        own: name of the calling network; needed under ``"self"``.
        reducer: combines ranks; only the scope ``"iteration"`` uses it.

    Raises:
        ConfigError: the fixed teacher, or ``own`` under ``"self"``, has no table.
        CandidateMismatchError: tables differ in length or columns.

    Source:
        LAD, sec. 3.4, eq. 3 (CoLAD). Reference code differs: it decides per (GT, level), not once
        per iteration, compares means for single candidates, and sends *their* exact ties to the
        student; equal single costs give the same assignment either way, so here one rule holds.
    """
    if rule.criterion in ("fixed", "self"):
        return _constant_choice(tables, rule.teacher if rule.criterion == "fixed" else own)
    rows = list(tables.values())
    values = compute_indicators(
        rows,
        candidates,
        scope=rule.scope,
        num_gts=num_gts,
        num_images=num_images,
        num_levels=num_levels,
        fisher=rule.criterion == "fisher",
        reducer=reducer,
    )
    group, _ = _groups(candidates, rule.scope, num_gts, num_images, num_levels)
    decisions, applies = _decide(values)
    teacher = decisions.clamp(min=0)[group]
    judged = values.std_mean if values.fisher is None else values.fisher
    return Choice(
        names=tuple(tables),
        table=_take_rows(rows, teacher),
        teacher=teacher,
        decisions=decisions,
        share=_share(decisions, len(rows)),
        indicator=(
            torch.where(applies[:, None], judged, 0.0).sum(0) / applies.sum().clamp(min=1)
        ).float(),
    )


def compute_indicators(
    tables: Sequence[CostTable],
    candidates: Candidates,
    *,
    scope: str,
    num_gts: int,
    num_images: int,
    num_levels: int | None = None,
    fisher: bool = False,
    reducer: Reducer | None = None,
) -> Indicators:
    """The statistics that ``choose`` compares, for each group of the scope.

    Groups are counted GT-major: (GT, level), GT or image; ``"iteration"`` is one group.

    Raises:
        CandidateMismatchError: tables differ in length or columns.
    """
    _check_tables(tables, candidates)
    group, num_groups = _groups(candidates, scope, num_gts, num_images, num_levels)
    reducer = reducer if scope == "iteration" else None
    # Row by row of a network: (M, N) is contiguous, and sums of it are the cheapest.
    cost = torch.stack([table.cost.detach() for table in tables]).double()
    owned = None
    if "owned" in tables[0].columns:
        owned = torch.stack([table.columns["owned"] > 0.5 for table in tables])
    bounds = torch.searchsorted(group, torch.arange(num_groups + 1, device=group.device))
    lengths = bounds.diff()
    if owned is None:
        counted, count = cost, lengths.double().expand(len(tables), -1)
    else:
        counted, count = cost * owned, _segment_sum(owned.double(), lengths)
    total = _segment_sum(counted, lengths)  # (M, S), as count
    if reducer is not None:
        count, total = reducer.sum(torch.cat([count, total])).chunk(2)
    # Two passes: the squares are taken around the mean of all ranks.
    mean = total / count.clamp(min=1)
    squares = (cost - mean.gather(1, group.expand(len(tables), -1))).square_()
    if owned is not None:
        squares *= owned
    sums = _segment_sum(squares, lengths)
    variance = (sums if reducer is None else reducer.sum(sums)) / (count - 1).clamp(min=1)
    return Indicators(
        count=count.T,
        mean=mean.T,
        std_mean=torch.where(mean > 0, variance.sqrt() / mean, 0.0).T,
        fisher=_fisher(cost, owned, bounds, reducer) if fisher else None,
    )


def _check_tables(tables: Sequence[CostTable], candidates: Candidates) -> None:
    if not tables:
        raise CandidateMismatchError("switch: no cost table to choose from")
    for table in tables:
        if len(table) != len(candidates):
            raise CandidateMismatchError(
                f"switch: a cost table has {len(table)} rows for {len(candidates)} candidates"
            )
        if set(table.columns) != set(tables[0].columns):
            raise CandidateMismatchError(
                f"switch: columns {sorted(table.columns)} of one table differ from "
                f"{sorted(tables[0].columns)} of another"
            )


def _constant_choice(tables: Mapping[str, CostTable], name: str | None) -> Choice:
    """All rows from one network."""
    names = tuple(tables)
    if name is None or name not in tables:
        raise ConfigError(f"switch: teacher {name!r} is not among the cost tables of {names}")
    table = tables[name]
    index = names.index(name)
    share = table.cost.new_zeros(len(names), dtype=torch.float32)
    share[index] = 1.0
    return Choice(
        names=names,
        table=table,
        teacher=torch.full_like(table.cost, index, dtype=torch.int64),
        decisions=torch.full_like(table.cost[:0], index, dtype=torch.int64),
        share=share,
        indicator=torch.zeros_like(share),
    )


def _groups(
    candidates: Candidates, scope: str, num_gts: int, num_images: int, num_levels: int | None
) -> tuple[Tensor, int]:
    """(N,) int64 group of each row, non-decreasing, and the number of groups."""
    if scope == "gt":
        return candidates.gt, num_gts
    if scope == "image":
        return candidates.image, num_images
    if scope == "iteration":
        return torch.zeros_like(candidates.gt), 1
    if num_levels is None:
        num_levels = int(candidates.level.max()) + 1 if len(candidates) else 1
    return candidates.gt * num_levels + candidates.level, num_gts * num_levels


def _segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums over consecutive columns: (M, N) and (S,) -> (M, S).

    The rows of a group are neighbours; adding them in order is reproducible on every device, which
    atomic scatter additions are not.
    """
    if lengths.numel() == 0:
        return values.new_zeros(len(values), 0)
    # The lengths come from sorted groups; torch's check of them would synchronise twice.
    each = lengths.expand(len(values), -1)
    return torch.segment_reduce(values, "sum", lengths=each, axis=1, unsafe=True)


def _fisher(cost: Tensor, owned: Tensor | None, bounds: Tensor, reducer: Reducer | None) -> Tensor:
    """Fisher's ratio of every group and network, (S, M).

    Groups of similar length are fitted together, so that they are padded little. The padding may
    change the last bits of a ratio, nothing else; that of the longest groups is as if all were
    padded to the longest.

    Args:
        cost: (M, N) float64.
        owned: (M, N) bool, whose rows count; None: all.
        bounds: (S + 1,) first row of each group, and N.
        reducer: combines ranks; the group is then the only one, of the rows of all ranks.
    """
    counts = torch.ones_like(cost, dtype=torch.bool) if owned is None else owned
    if reducer is not None:
        cost, counts = _rows_of_all_ranks(cost, counts, reducer)
        bounds = torch.tensor([0, cost.shape[1]], device=cost.device)
    lengths = bounds.diff()
    ratio = cost.new_zeros(len(cost), len(lengths))
    # The one synchronisation besides those of the fits.
    for groups, width in _by_width(lengths.cpu(), narrow=cost.device.type == "cpu"):
        groups = groups.to(cost.device, non_blocking=True)
        slot = torch.arange(width, device=cost.device)
        inside = slot < lengths[groups, None]  # (s, width)
        rows = torch.where(inside, bounds[groups, None] + slot, 0)
        ratio[:, groups] = _fisher_of_rows(cost[:, rows], inside & counts[:, rows])
    return ratio.T


def _rows_of_all_ranks(cost: Tensor, counts: Tensor, reducer: Reducer) -> tuple[Tensor, Tensor]:
    """(M, n) costs and (M, n) bool of one rank -> (M, N) and (M, N), ranks in order."""
    rows = torch.stack([cost.T, counts.T.double()], dim=-1)  # (n, M, 2)
    cost, counted = reducer.gather(rows.flatten()).view(-1, len(cost), 2).permute(2, 1, 0)
    return cost, counted > 0.5


def _by_width(lengths: Tensor, *, narrow: bool) -> Iterator[tuple[Tensor, int]]:
    """The groups that may be large enough for a fit, as indices, and the width they are padded to.

    Args:
        lengths: (S,) int64 on the host.
        narrow: whether several widths pay: not on a GPU, where a fit costs its launches.
    """
    longest = int(lengths.max()) if len(lengths) else 0
    above, width = FISHER_MIN_COUNT - 1, _NARROWEST if narrow else longest
    while above < longest:
        width = min(width, longest)
        groups = ((lengths > above) & (lengths <= width)).nonzero().flatten()
        if len(groups):
            yield groups, width
        above, width = width, 2 * width


def _fisher_of_rows(cost: Tensor, counts: Tensor) -> Tensor:
    """(M, s, width) costs and which of them count -> (M, s), 0 below ``FISHER_MIN_COUNT``."""
    counts = counts & (counts.sum(-1, keepdim=True) >= FISHER_MIN_COUNT)
    fit = fit_mixture(cost.flatten(0, 1), counts.flatten(0, 1))
    ratio = (fit.means[:, 0] - fit.means[:, 1]).square() / fit.variances.sum(-1)
    return torch.where(fit.fitted, ratio, 0.0).view(cost.shape[:2])


def _decide(values: Indicators) -> tuple[Tensor, Tensor]:
    """(S,) winner of each group or -1, and (S,) bool whether the criterion itself applied."""
    # Networks that own different rows may count differently: the least of them sets the rule.
    present = values.count > 0
    least = torch.where(present, values.count, math.inf).amin(dim=1)  # (S,)
    score = torch.where((least >= 2)[:, None], values.std_mean, -values.mean)
    applies = (least >= 2) & least.isfinite()
    if values.fisher is not None:
        applies = (least >= FISHER_MIN_COUNT) & least.isfinite()
        score = torch.where(applies[:, None], values.fisher, score)
    score = torch.where(present, score, -math.inf)
    winner = score.argmax(dim=1)  # the first of equal maxima
    return torch.where(present.any(dim=1), winner, -1), applies


def _share(decisions: Tensor, num_networks: int) -> Tensor:
    networks = torch.arange(num_networks, device=decisions.device)
    won = (decisions[:, None] == networks).sum(0)
    return won / won.sum().clamp(min=1)


def _take_rows(tables: Sequence[CostTable], teacher: Tensor) -> CostTable:
    def take(rows: list[Tensor]) -> Tensor:
        taken = rows[0].detach()
        for network, values in enumerate(rows[1:], start=1):
            taken = torch.where(teacher == network, values.detach(), taken)
        return taken

    return CostTable(
        cost=take([table.cost for table in tables]),
        columns={
            name: take([table.columns[name] for table in tables]) for name in tables[0].columns
        },
    )
