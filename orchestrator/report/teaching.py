"""Sections on co-training itself: who taught what and when, and how many positives came of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assigners import build_assigner
from orchestrator.report.charts import (
    Series,
    bar_chart,
    binned,
    line_chart,
    smooth,
)
from orchestrator.report.maps import COUNTS_FROM
from orchestrator.report.page import Html, figure, grid, paragraph
from orchestrator.report.run_data import RunData

SIZES = ("small", "medium", "large")


def teaching_section(run: RunData) -> Html:
    """Share of decisions over time, per level and per object size; indicators."""
    criterion = run.config.switch.criterion
    if criterion == "self":
        return paragraph("Nobody teaches another: every network assigns for itself.")
    if criterion == "fixed":
        return paragraph(
            f"The teacher is fixed: {run.config.switch.teacher} supplies every cost (LAD)."
        )
    learner = run.of(run.config.learners[0])
    x = learner["iteration"].to_numpy()
    width = max(run.done // 40, 1)
    shares = _network_series(run, learner, "taught_", 100.0, width)
    indicators = _network_series(run, learner, "indicator_", 1.0, width)
    half = learner[learner["iteration"] >= x.max() / 2]
    late = [f"{n} {100 * half[f'taught_{n}'].mean():.0f} %" for n in run.networks]
    figures = [
        figure(
            "who taught, over time",
            line_chart("iteration", "decisions won (%)", shares, limits=(0, 100)),
            f"Second half of the run: {', '.join(late)} of the decisions; one decision per "
            f"{_scope_words(run)}.",
        ),
        figure(
            "indicator of each network",
            line_chart("iteration", f"{criterion} (no unit)", indicators),
            f"Mean {criterion} of the costs; per decision the network with the larger one teaches.",
        ),
    ]
    decisions = decisions_of(run)
    if decisions is None:
        run.lacks.append(f"Who taught per level and size: no sampled decisions ({run.unsampled}).")
        return grid(figures)
    figures += [
        _shares_figure(run, decisions, "level", "pyramid level (stride)", "who taught, per level"),
        _shares_figure(run, decisions, "size", "object size", "who taught, per object size"),
    ]
    figures += _size_over_time(run, decisions)
    return grid(figures)


def _network_series(
    run: RunData, rows: pd.DataFrame, prefix: str, factor: float, width: int
) -> list[Series]:
    x = rows["iteration"].to_numpy()
    made = []
    for name in run.networks:
        if f"{prefix}{name}" not in rows:
            continue
        values = factor * rows[f"{prefix}{name}"].to_numpy(float)
        at, mean = binned(x, smooth(values, width))
        made.append(Series(name=name, x=at, y=mean, raw=binned(x, values)))
    return made


def _scope(run: RunData) -> str:
    return run.config.switch.scope or build_assigner(run.config.assigner).default_scope


def _scope_words(run: RunData) -> str:
    scope = _scope(run)
    return {"gt_level": "object and level", "gt": "object"}.get(scope, scope)


def decisions_of(run: RunData) -> pd.DataFrame | None:
    """One row per sampled (iteration, object, level): its teacher and the object's size class.

    Only under the scope ``gt_level`` is each a decision of its own.
    """
    samples = run.samples
    if not {"teacher", "gt_area"} <= set(samples.columns):
        return None
    mine = samples[samples["learner"] == run.config.learners[0]]
    rows = mine.drop_duplicates(["iteration", "gt", "level"]).copy()
    rows["size"], _ = size_classes(rows["gt_area"].to_numpy(float))
    strides = _strides(run)
    rows["level"] = [strides.get(level, f"level {level}") for level in rows["level"]]
    return rows


def _strides(run: RunData) -> dict[int, str]:
    """Level index to its stride, where the learners' head says."""
    from orchestrator.building import import_custom, resolve_model

    import_custom(run.config.custom_imports)
    first = run.config.learners[0]
    head = resolve_model(first, run.config.networks[first], len(run.data.classes))["bbox_head"]
    found = head.get("strides") or head.get("anchor_generator", {}).get("strides") or ()
    return {index: f"{stride}" for index, stride in enumerate(found)}


def size_classes(area: NDArray[np.float64]) -> tuple[NDArray[np.object_], list[str]]:
    """Thirds of the objects by area, and what they mean in pixels.

    Returns:
        One of ``SIZES`` per object, and a description of each.
    """
    side = np.sqrt(area)
    low, high = np.quantile(side, [1 / 3, 2 / 3]) if len(side) else (0.0, 0.0)
    words = np.where(side <= low, SIZES[0], np.where(side <= high, SIZES[1], SIZES[2]))
    return words.astype(object), [
        f"small: up to {low:.0f} px",
        f"medium: up to {high:.0f} px",
        f"large: above {high:.0f} px",
    ]


def _by_object(run: RunData, decisions: pd.DataFrame) -> pd.DataFrame:
    """Each object once where one decision is for all its levels."""
    if _scope(run) == "gt_level":
        return decisions
    return decisions.drop_duplicates(["iteration", "gt"])


def _shares_figure(
    run: RunData, decisions: pd.DataFrame, column: str, label: str, title: str
) -> Html:
    order = None
    if column == "size":
        decisions = _by_object(run, decisions)
        order = [s for s in SIZES if s in set(decisions[column])]
    groups = order or sorted(decisions[column].unique(), key=lambda g: (len(g), g))
    counts = decisions.groupby([column, "teacher"]).size().unstack(fill_value=0)
    total = counts.sum(axis=1)
    unit = "decisions"
    if _scope(run) != "gt_level" and not (_scope(run) == "gt" and column == "size"):
        unit = "objects" if column == "size" else "objects with candidates there"
    values = {
        name: [
            100 * counts.loc[group].get(name, 0) / total[group] if group in counts.index else 0.0
            for group in groups
        ]
        for name in run.networks
    }
    first = run.networks[0]
    spread = [f"{group}: {share:.0f} %" for group, share in zip(groups, values[first])]
    text = f"Share that went to {first}: {', '.join(spread)}. Below the names: {unit} sampled."
    if column == "size":
        _, words = size_classes(decisions["gt_area"].to_numpy(float))
        text += (
            f" Thirds of the objects by root of area in the network's input; {'; '.join(words)}."
        )
    drawing = bar_chart(
        label,
        f"{unit.partition(' ')[0]} won (%)",
        groups,
        values,
        stacked=True,
        notes=[f"{total[group]}" for group in groups],
    )
    return figure(title, drawing, text)


def _size_over_time(run: RunData, decisions: pd.DataFrame) -> list[Html]:
    """Share of the first network per size class over the samples."""
    first = run.networks[0]
    decisions = _by_object(run, decisions)
    won = decisions.assign(won=100.0 * (decisions["teacher"] == first))
    table = won.groupby(["iteration", "size"])["won"].mean().unstack()
    if len(table) < 3:
        return []
    series = [
        Series(name=f"{size} objects", x=table.index.to_numpy(), y=table[size].to_numpy(float))
        for size in SIZES
        if size in table
    ]
    drawing = line_chart("iteration", f"won by {first} (%)", series, limits=(0, 100))
    text = f"What {first} won of each size, at {len(table)} sampled iterations."
    return [figure("object size over time", drawing, text)]


# -- positives per object -----------------------------------------------------------------------


def positives_section(run: RunData) -> Html:
    """Positives per object over the run and by size."""
    counts = positives_of(run)
    if counts is None:
        run.lacks.append(f"Positives per object: no sampled weights ({run.unsampled}).")
        return paragraph("Not available for this run.")
    counts["size"], words = size_classes(counts["gt_area"].to_numpy(float))
    table = counts.groupby(["iteration", "size"])["positives"].mean().unstack()
    series = [
        Series(name=f"{size} objects", x=table.index.to_numpy(), y=table[size].to_numpy(float))
        for size in SIZES
        if size in table
    ]
    over_time = line_chart("iteration", "positives per object", series, from_zero=True)
    ends = [f"{s} {table[s].iloc[0]:.1f} to {table[s].iloc[-1]:.1f}" for s in SIZES if s in table]
    rule = f"Pairs from {COUNTS_FROM:.0%} of the object's largest weight count."
    return grid(
        [
            figure(
                "positives per object, over time",
                over_time,
                f"From first to last sample: {', '.join(ends)}. {'; '.join(words)} (root of area). "
                f"{rule}",
            ),
            _by_size(counts, rule),
        ]
    )


def positives_of(run: RunData) -> pd.DataFrame | None:
    """One row per sampled (iteration, object): area and number of positives, first learner's."""
    if not {"pos_weight", "gt_area"} <= set(run.samples.columns):
        return None
    rows = run.samples[run.samples["learner"] == run.config.learners[0]]
    rows = rows.dropna(subset=["pos_weight", "gt_area"])
    if not len(rows):
        return None
    largest = rows.groupby(["iteration", "gt"])["pos_weight"].transform("max")
    counted = (rows["pos_weight"] >= COUNTS_FROM * largest) & (largest > 0)
    grouped = rows.assign(positives=counted).groupby(["iteration", "gt"], as_index=False)
    return grouped.agg(gt_area=("gt_area", "first"), positives=("positives", "sum"))


def _by_size(counts: pd.DataFrame, rule: str) -> Html:
    """Median and quartiles in bins of size, early and late in the run."""
    side = np.sqrt(counts["gt_area"].to_numpy(float))
    edges = np.unique(np.quantile(side, np.linspace(0, 1, 8)))
    middle = counts["iteration"].max() / 2
    series = []
    for name, half in (
        ("first half", counts["iteration"] < middle),
        ("second half", counts["iteration"] >= middle),
    ):
        rows = counts[half]
        where = np.digitize(side[half.to_numpy()], edges[1:-1])
        groups = rows.groupby(where)["positives"]
        if not len(rows):
            continue
        centres = pd.Series(side[half.to_numpy()]).groupby(where).median()
        low, mid, high = (groups.quantile(q) for q in (0.25, 0.5, 0.75))
        series.append(
            Series(
                name=name, x=centres, y=mid, low=low.to_numpy(), high=high.to_numpy(), marked=True
            )
        )
    drawing = line_chart("root of object area (px)", "positives per object", series, from_zero=True)
    return figure(
        "positives per object, by size",
        drawing,
        f"Medians of objects of similar size, with the middle half as a band. {rule}",
    )
