"""Sections on the course of a run: AP, losses, where the time went."""

from __future__ import annotations

import numpy as np
import pandas as pd

from orchestrator.evaluation import METRIC_NAMES
from orchestrator.report.charts import Series, bar_chart, binned, line_chart, smooth
from orchestrator.report.page import Html, figure, grid, paragraph, table
from orchestrator.report.run_data import RunData

PARTS = ("forward", "wait", "exchange", "assign", "backward", "step")
WARM_UP = 10
"""Iterations left out of timings: caches and allocators fill in them."""


def final_table(run: RunData) -> Html:
    """COCO's numbers of every network."""
    rows = [
        [str(row["network"]), str(row["iteration"]), *(number(row[name]) for name in METRIC_NAMES)]
        for row in run.final.to_dict("records")
    ]
    return table(["network", "after", *METRIC_NAMES], rows)


def number(value: float, digits: int = 1) -> str:
    """A number for a table; a dash for none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def ap_section(run: RunData) -> Html:
    """AP, AP50 and AP75 of each network over the iterations."""
    if not len(run.evaluations):
        return paragraph("No evaluation yet.")
    figures = []
    for metric in ("AP", "AP50", "AP75"):
        series = [
            Series(name=name, x=rows["iteration"], y=rows[metric], marked=True)
            for name, rows in run.evaluations.groupby("network", sort=False)
        ]
        drawing = line_chart("iteration", f"{metric} (%)", series, from_zero=True)
        figures.append(figure(metric, drawing, _best_of(run.final, metric)))
    return grid(figures)


def _best_of(final: pd.DataFrame, metric: str) -> str:
    ordered = final.dropna(subset=[metric]).sort_values(metric, ascending=False)
    if not len(ordered):
        return f"{metric} is not defined on these annotations."
    values = [f"{row['network']} {row[metric]:.1f}" for row in ordered.to_dict("records")]
    return f"Newest evaluation: {', '.join(values)} (higher is better)."


def loss_section(run: RunData) -> Html:
    """Every loss of each learner, smoothed; the learning rate."""
    names = [name for name in run.iterations if name.startswith("loss_")]
    names = ["loss_total", *(name for name in names if name != "loss_total")]
    width = max(run.done // 40, 1)
    figures = []
    for name in names:
        series, ends = [], []
        for network in run.config.learners:
            rows = run.of(network)
            if name not in rows or not rows[name].notna().any():
                continue
            values = rows[name].to_numpy(float)
            x, y = binned(rows["iteration"].to_numpy(), smooth(values, width))
            raw = binned(rows["iteration"].to_numpy(), values)
            series.append(Series(name=network, x=x, y=y, raw=raw))
            ends.append(f"{network} {y[0]:.3g} to {y[-1]:.3g}")
        if series:
            drawing = line_chart("iteration", f"{name} (no unit)", series, from_zero=True)
            text = f"Mean over {width} iterations: {', '.join(ends)}."
            figures.append(figure(name.removeprefix("loss_").replace("_", " "), drawing, text))
    figures.append(_learning_rate(run))
    return grid(figures)


def _learning_rate(run: RunData) -> Html:
    series = []
    for network in run.config.learners:
        rows = run.of(network)
        x, y = binned(rows["iteration"].to_numpy(), rows["lr"].to_numpy(float))
        series.append(Series(name=network, x=x, y=y))
    top = run.iterations["lr"].max()
    drawing = line_chart("iteration", "learning rate (no unit)", series, from_zero=True)
    return figure("learning rate", drawing, f"Highest: {top:.2g}.")


def time_section(run: RunData) -> Html:
    """Parts of an iteration per learner, and the whole over the run."""
    rows = run.iterations[run.iterations["iteration"] >= min(WARM_UP, run.done - 1)]
    parts = [part for part in PARTS if f"seconds_{part}" in rows]
    names = list(run.config.learners)
    medians = {
        part: [
            1000 * float(rows.loc[rows["network"] == name, f"seconds_{part}"].median())
            for name in names
        ]
        for part in parts
    }
    first = names[0]
    shares = {part: values[0] for part, values in medians.items()}
    largest = max(shares, key=lambda part: shares[part])
    text = (
        f"Medians over iterations {min(WARM_UP, run.done - 1)} to {run.done - 1}. Most of "
        f"{first}'s time: {largest}, {shares[largest]:.0f} ms. Networks work at the same time, so "
        "these do not add up over networks; wait is for the others' costs."
    )
    drawing = bar_chart("network", "milliseconds", names, medians, stacked=True, horizontal=True)
    whole = rows.drop_duplicates("iteration")
    x, y = binned(whole["iteration"].to_numpy(), 1000 * whole["seconds"].to_numpy(float))
    course = line_chart(
        "iteration", "milliseconds", [Series(name="whole iteration", x=x, y=y)], from_zero=True
    )
    median = 1000 * float(whole["seconds"].median())
    return grid(
        [
            figure("parts of an iteration", drawing, text),
            figure("iterations", course, f"Median {median:.0f} ms from batch to batch."),
        ]
    )
