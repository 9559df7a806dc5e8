"""Pictures of a sweep: bars or a heat map for tables, learning curves, parallel coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tune_spaces import SPACES

MAX_LINES = 12
COLOURS = 10
"""Of matplotlib's cycle; further curves are dashed."""
AP = "AP (percent)"


def draw_figures(sweep_dir: Path, plan: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[Path]:
    """Write PNG files to ``figures/``; none before the first evaluation."""
    import matplotlib

    matplotlib.use("Agg")
    known = frame.dropna(subset=["AP"])
    if not len(known):
        return
    folder = sweep_dir / "figures"
    folder.mkdir(exist_ok=True)
    first = known.drop_duplicates(["trial", "iteration"])  # the first learner's
    fields = sorted({field for trial in plan["trials"] for field in trial["params"]})
    yield _curves(folder / "learning_curves.png", plan, first)
    final = first[first["last"]]
    if plan["space"] in SPACES:
        yield _bars(folder / "settings.png", plan, final)
        numeric = [field for field in fields if pd.api.types.is_numeric_dtype(final[field])]
        if len(fields) == 2 and len(numeric) == 2:
            yield _heat_map(folder / "heat_map.png", plan, final, fields)
    elif fields:
        yield _parallel(folder / "parallel_coordinates.png", plan, final, fields)


def _name(trial: Mapping[str, Any]) -> str:
    params = [f"{field.rpartition('.')[2]}={value}" for field, value in trial["params"].items()]
    return ", ".join(params) or "base"


def _finish(figure: Any, axes: Any, path: Path, plan: Mapping[str, Any]) -> Path:
    from matplotlib import pyplot

    axes.set_title(f"{plan['space']}: {plan['title']}", fontsize=10)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    pyplot.close(figure)
    return path


def _curves(path: Path, plan: Mapping[str, Any], frame: pd.DataFrame) -> Path:
    """AP over iterations, one line per setting (mean over seeds)."""
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    names = {trial["id"]: _name(trial) for trial in plan["trials"]}
    if "source" in frame:  # of a population, whose values change on the way
        names = {trial: trial for trial in names}
    frame = frame.assign(setting=frame["trial"].map(names))
    mean = frame.groupby(["setting", "iteration"])["AP"].mean().unstack("iteration")
    order = mean.ffill(axis=1).iloc[:, -1].sort_values(ascending=False).index
    for rank, setting in enumerate(order):
        values = mean.loc[setting].dropna()
        shown = rank < MAX_LINES
        (line,) = axes.plot(
            values.index,
            values.to_numpy(),
            marker="o",
            markersize=3,
            linewidth=1.5 if shown else 0.5,
            linestyle="-" if rank < COLOURS else "--",
            color=None if shown else "0.8",
            label=setting if shown else None,
        )
        if "source" in frame:
            changed = _taken_over(frame[frame["setting"] == setting])
            axes.plot(changed, mean.loc[setting, changed], "X", ms=9, color=line.get_color())
    if "source" in frame:
        axes.plot([], [], "X", ms=9, color="0.4", label="went on from another")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("iteration")
    axes.set_ylabel(AP)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=4)
    return _finish(figure, axes, path, plan)


def _taken_over(frame: pd.DataFrame) -> list[int]:
    """Iterations of a population's trial whose evaluation is of weights taken from another."""
    rows = frame.dropna(subset=["source"]).sort_values("iteration")
    spent = rows["restart_seconds"].diff().fillna(rows["restart_seconds"])
    return [int(iteration) for iteration in rows["iteration"][spent > 0]]


def _bars(path: Path, plan: Mapping[str, Any], final: pd.DataFrame) -> Path:
    """Final AP of every setting; whiskers are one deviation over seeds."""
    from matplotlib import pyplot

    names = {trial["id"]: _name(trial) for trial in plan["trials"]}
    order = list(dict.fromkeys(names.values()))
    groups = final.assign(setting=final["trial"].map(names)).groupby("setting")["AP"]
    mean, deviation = groups.mean().reindex(order), groups.std(ddof=1).reindex(order)
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.28 * len(order)))
    axes.barh(range(len(order)), mean, xerr=deviation.fillna(0), color="tab:blue", height=0.7)
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.invert_yaxis()
    spread = deviation.fillna(0)
    low, high = float((mean - spread).min()), float((mean + spread).max())
    margin = max(high - low, 1.0)
    axes.set_xlim(max(0.0, low - margin), high + 0.1 * margin)
    whiskers = "; whiskers: one standard deviation over seeds" if spread.any() else ""
    broken = "; the axis does not start at 0" if low - margin > 0 else ""
    axes.set_xlabel(f"{AP}{whiskers}{broken}")
    axes.grid(axis="x", alpha=0.3)
    return _finish(figure, axes, path, plan)


def _heat_map(path: Path, plan: Mapping[str, Any], final: pd.DataFrame, fields: list[str]) -> Path:
    """Mean AP over two swept numbers; empty where the table has no line."""
    from matplotlib import pyplot

    grid = final.pivot_table(index=fields[0], columns=fields[1], values="AP", aggfunc="mean")
    figure, axes = pyplot.subplots(figsize=(1.5 + 0.8 * grid.shape[1], 1.5 + 0.6 * grid.shape[0]))
    image = axes.imshow(grid.to_numpy(), cmap="viridis", aspect="auto")
    axes.set_xticks(range(grid.shape[1]), [f"{value:g}" for value in grid.columns])
    axes.set_yticks(range(grid.shape[0]), [f"{value:g}" for value in grid.index])
    axes.set_xlabel(fields[1])
    axes.set_ylabel(fields[0])
    middle = np.nanmean(grid.to_numpy())
    for (row, column), value in np.ndenumerate(grid.to_numpy()):
        if not np.isnan(value):
            color = "black" if value > middle else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
    figure.colorbar(image, ax=axes, label=AP)
    return _finish(figure, axes, path, plan)


def _parallel(path: Path, plan: Mapping[str, Any], final: pd.DataFrame, fields: list[str]) -> Path:
    """One line per trial across all its parameters, coloured by AP."""
    from matplotlib import cm, colors, pyplot

    final = final.fillna({name: value for name, value in plan.get("start", {}).items()})
    figure, axes = pyplot.subplots(figsize=(2 + 1.6 * len(fields), 4.5))
    scale = colors.Normalize(final["AP"].min(), final["AP"].max())
    columns = [*fields, "AP"]
    heights = {name: _unit(final[name]) for name in columns}
    for row in range(len(final)):
        axes.plot(
            range(len(columns)),
            [heights[name][row] for name in columns],
            color=cm.viridis(scale(final["AP"].iloc[row])),
        )
    for column, name in enumerate(columns):
        axes.axvline(column, color="0.7", linewidth=1, zorder=0)
        for height, text in _marks(final[name], heights[name]):
            axes.annotate(
                text,
                (column, height),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=7,
                va="center",
                bbox=dict(fc="white", ec="none", pad=0.5),
            )
    labels = [name.rpartition(".")[2] for name in fields]
    axes.set_xticks(range(len(columns)), [*labels, AP], fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(fields) + 0.45)
    figure.colorbar(cm.ScalarMappable(scale, "viridis"), ax=axes, label=AP)
    return _finish(figure, axes, path, plan)


def _unit(values: pd.Series) -> np.ndarray:
    """Values of one axis in 0..1; words by their order; unset ones in the middle."""
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.Series(pd.Categorical(values).codes).replace(-1, np.nan)
    numbers = values.to_numpy(dtype=float)
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    scaled = (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)
    return np.nan_to_num(scaled, nan=0.5)


def _marks(values: pd.Series, heights: np.ndarray) -> list[tuple[float, str]]:
    """What stands along an axis: the ends of numbers, every word."""
    if not pd.api.types.is_numeric_dtype(values):
        return sorted({(float(h), str(v)) for h, v in zip(heights, values) if v is not None})
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [(0.5, f"{low:.3g}")]
    return [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
