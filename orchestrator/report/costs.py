"""The section on costs: single objects, what was positive, and the mixture that decided."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from assigners import build_assigner
from assigners.mixture import fit_mixture
from assigners.paa import PAAAssigner, build_bags
from assigners.types import Candidates
from orchestrator.report.charts import COLOURS, chart, name_lines
from orchestrator.report.maps import COUNTS_FROM
from orchestrator.report.page import Html, figure, grid, join, paragraph
from orchestrator.report.run_data import RunData

COST_OBJECTS = 6
NEUTRAL = "#a9b2bd"
"""Bars of pairs that are not positive: visible on light and dark."""


def costs_section(run: RunData) -> Html:
    """Costs of single objects at the last sample: histogram, mixture and threshold."""
    samples = run.samples
    if not len(samples) or "learner" not in samples:
        run.lacks.append(f"Costs: no samples ({run.unsampled}).")
        return paragraph("Not available for this run.")
    rows = samples[samples["learner"] == run.config.learners[0]]
    rows = rows[rows["iteration"] == rows["iteration"].max()].copy()
    rows["cost"] = _used_cost(run, rows)
    weights = "pos_weight" if "pos_weight" in rows else "positive"
    if weights not in rows or rows["cost"].isna().all():
        run.lacks.append(f"Costs: no sampled weights ({run.unsampled}).")
        return paragraph("Not available for this run.")
    rows["weight"] = rows[weights].astype(float)
    assigner = build_assigner(run.config.assigner)
    figures = [
        _cost_figure(run, rows[rows["gt"] == gt], assigner, number)
        for number, gt in enumerate(_spread_objects(rows), 1)
    ]
    at = int(rows["iteration"].iloc[0])
    what = (
        f"the {assigner.topk} lowest costs of each level enter the mixture; what lies left of the "
        "threshold and belongs to the low component is positive"
        if isinstance(assigner, PAAAssigner)
        else "the method has no mixture: dots are the positive weights that it gives at each cost"
    )
    lead = f"Objects of the batch of iteration {at}, from small to large; {what}."
    return join([paragraph(lead), grid(figures)])


def _used_cost(run: RunData, rows: pd.DataFrame) -> NDArray[np.float64]:
    """The costs that were learned from: the teacher's, or the network's own."""
    own = f"cost_{run.config.learners[0]}"
    result = rows[own].to_numpy(float) if own in rows else np.full(len(rows), np.nan)
    if "teacher" not in rows:
        return result
    for name in run.networks:
        if f"cost_{name}" in rows:
            chosen = (rows["teacher"] == name).to_numpy()
            result = np.where(chosen, rows[f"cost_{name}"].to_numpy(float), result)
    return result


def _spread_objects(rows: pd.DataFrame) -> list[int]:
    """Objects of evenly spread sizes (or numbers of pairs, where sizes are not logged)."""
    groups = rows.groupby("gt")
    order = groups["gt_area"].first() if "gt_area" in rows else groups.size()
    order = order[groups.size() >= 4].sort_values()
    picks = np.linspace(0, len(order) - 1, min(COST_OBJECTS, len(order))).round().astype(int)
    return [int(order.index[pick]) for pick in np.unique(picks)]


def _cost_figure(run: RunData, rows: pd.DataFrame, assigner: object, number: int) -> Html:
    cost, weight = rows["cost"].to_numpy(float), rows["weight"].to_numpy(float)
    title = f"object {number}"
    if "gt_label" in rows:
        title += f": {run.data.classes[int(rows['gt_label'].iloc[0])]}"
    if "gt_area" in rows:
        title += f", {np.sqrt(rows['gt_area'].iloc[0]):.0f} px"
    if "teacher" in rows:
        taught = rows["teacher"].value_counts()
        title += f", taught by {' and '.join(map(str, taught.index))}"
    with chart("cost (no unit)", "pairs") as (axes, drawn):
        if isinstance(assigner, PAAAssigner):
            text = _mixture(axes, rows, cost, weight, assigner.topk)
        else:
            text = _weights(axes, cost, weight)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return figure(title, drawn[0], text)


def _mixture(
    axes: Axes,
    rows: pd.DataFrame,
    cost: NDArray[np.float64],
    weight: NDArray[np.float64],
    topk: int,
) -> str:
    bag = _bag(rows, cost, topk)
    used = cost[bag]
    bins = np.linspace(used.min(), used.max() + 1e-6, 16)
    positive = used[weight[bag] > 0]
    axes.hist(
        [positive, used[weight[bag] <= 0]],
        bins=list(bins),
        stacked=True,
        color=[COLOURS[0], NEUTRAL],
        label=["positive", "negative"],
    )
    fit = fit_mixture(torch.from_numpy(used)[None], torch.ones(1, len(used), dtype=torch.bool))
    lines, means = 2, " No mixture could be fitted."
    if bool(fit.fitted[0]):
        x = np.linspace(bins[0], bins[-1], 200)
        parts, _ = fit.log_density(torch.from_numpy(x)[None])
        density = parts[0].exp().numpy() * len(used) * (bins[1] - bins[0])  # in pairs per bin
        top = max(axes.get_ylim()[1], 1.0) * 1.3
        for index, name in enumerate(("low component", "high component")):
            y = np.where(density[index] < top, density[index], np.nan)
            axes.plot(x, y, color=COLOURS[1 + index], linestyle=("-", "--")[index], label=name)
        lines += 2
        low, high = fit.means[0].tolist()
        means = f" Means of the components: {low:.2f} and {high:.2f}."
    if not len(positive):
        name_lines(axes, lines)
        return f"{len(used)} pairs enter the mixture; none became positive.{means}"
    axes.axvline(positive.max(), color="#1a1a1b", linestyle=":", label="threshold")
    name_lines(axes, lines + 1)
    return (
        f"{len(positive)} of {len(used)} pairs are positive, up to a cost of "
        f"{positive.max():.2f}.{means}"
    )


def _bag(rows: pd.DataFrame, cost: NDArray[np.float64], topk: int) -> NDArray[np.int64]:
    """Rows of one object that enter its mixture."""
    level = torch.tensor(rows["level"].to_numpy())
    zero = torch.zeros(len(rows), dtype=torch.int64)
    pairs = Candidates(
        image=zero, gt=zero, prior=torch.tensor(rows["prior"].to_numpy()), level=level
    )
    bags = build_bags(torch.tensor(cost).float(), pairs, 1, int(level.max()) + 1, topk)
    found: NDArray[np.int64] = bags.row[0][bags.mask[0]].numpy()
    return found


def _weights(axes: Axes, cost: NDArray[np.float64], weight: NDArray[np.float64]) -> str:
    share = 100 * weight / max(weight.max(initial=0.0), 1e-12)
    axes.hist(cost, bins=16, color=NEUTRAL, label="pairs")
    twin = axes.twinx()
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    twin.set_ylabel("weight (% of largest)")
    twin.set_ylim(0, 105)
    twin.plot(cost, share, "o", color=COLOURS[1], markersize=3, label="positive weight")
    axes.plot([], [], "o", color=COLOURS[1], markersize=3, label="positive weight")
    name_lines(axes, 2)
    counted = int((share >= 100 * COUNTS_FROM).sum())
    return f"{counted} of {len(cost)} pairs have at least {COUNTS_FROM:.0%} of the largest weight."
