"""Several runs on one page: settings side by side, with confidence intervals over seeds."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.evaluation import METRIC_NAMES
from orchestrator.report.charts import MAX_POINTS, Series, line_chart, smooth
from orchestrator.report.curves import number
from orchestrator.report.page import (
    Html,
    figure,
    grid,
    join,
    note_list,
    page,
    paragraph,
    section,
    table,
)
from orchestrator.report.run_data import RunData

# Student's t, 97.5 %, for 1 to 30 degrees of freedom; beyond, the normal distribution's is near.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL = 1.960
_IGNORED = ("seed", "resources", "log", "checkpoint", "lookahead", "feed")
"""Fields in which runs of one setting may differ."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[RunData, ...]

    @property
    def seeds(self) -> str:
        return ", ".join(str(run.config.seed) for run in self.runs)


def quantile_t(degrees: float) -> float:
    """Student's t at 97.5 %; between whole degrees of freedom the lower one's, which is larger."""
    if degrees < 1:
        return math.inf
    return _T[int(degrees) - 1] if degrees < len(_T) + 1 else _NORMAL + 2.5 / degrees


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % confidence interval; NaN for the width of one value."""
    known = np.array([value for value in values if np.isfinite(value)], dtype=float)
    if not len(known):
        return math.nan, math.nan
    if len(known) == 1:
        return float(known[0]), math.nan
    error = known.std(ddof=1) / math.sqrt(len(known))
    return float(known.mean()), float(quantile_t(len(known) - 1) * error)


def difference(left: Sequence[float], right: Sequence[float]) -> tuple[float, float]:
    """Mean of ``right`` minus that of ``left`` and the half width of its 95 % interval (Welch)."""
    gap = float(np.mean(right) - np.mean(left))
    if min(len(left), len(right)) < 2:
        return gap, math.nan
    parts = [np.var(side, ddof=1) / len(side) for side in (left, right)]
    total = sum(parts)
    if total == 0:
        return gap, 0.0
    degrees = total**2 / sum(p**2 / (len(s) - 1) for p, s in zip(parts, (left, right)))
    return gap, float(quantile_t(float(degrees)) * math.sqrt(total))


def group_runs(runs: Sequence[RunData]) -> list[Setting]:
    """Runs with equal configurations but for the seed, named by what tells them apart."""
    groups: list[tuple[dict[str, Any], list[RunData]]] = []
    for run in runs:
        plain = {key: v for key, v in run.config.to_dict().items() if key not in _IGNORED}
        flat = dict(_flatten(plain))
        found = next((members for known, members in groups if known == flat), None)
        if found is None:
            groups.append((flat, [run]))
        else:
            found.append(run)
    differing = _differing([flat for flat, _ in groups])
    labels = run_labels(runs)
    named = []
    for flat, members in groups:
        words = [f"{key} = {flat.get(key, 'unset')}" for key in differing]
        text = ", ".join(words) if len(groups) > 1 and len(", ".join(words)) <= 60 else ""
        named.append(Setting(name=text or labels[members[0].run_dir], runs=tuple(members)))
    return named


def run_labels(runs: Sequence[RunData]) -> dict[Path, str]:
    """The names of the run directories, with the folders that tell equal ones apart."""
    if len({run.name for run in runs}) == len(runs):
        return {run.run_dir: run.name for run in runs}
    above = os.path.commonpath([run.run_dir.parent for run in runs])
    return {run.run_dir: os.path.relpath(run.run_dir, above) for run in runs}


def doubts(settings: Sequence[Setting]) -> list[str]:
    """What makes the numbers of the runs less comparable than they look."""
    runs = [run for setting in settings for run in setting.runs]
    labels = run_labels(runs)
    found = []
    measured = {_validation(run): labels[run.run_dir] for run in reversed(runs)}
    if len(measured) > 1:
        kinds = [f"{name} on {n} images with {b} boxes" for (n, b, _), name in measured.items()]
        found.append(f"Not all were evaluated on the same data: {', '.join(reversed(kinds))}.")
    short = [
        f"{labels[run.run_dir]} at {run.done} of {length}"
        for run in runs
        if (length := run.config.train.max_iterations) is not None and run.done < length
    ]
    if short:
        found.append(f"Not finished: {', '.join(short)}.")
    for setting in settings:
        counted = Counter(run.config.seed for run in setting.runs)
        again = [str(seed) for seed, number in counted.items() if number > 1]
        if again:
            found.append(
                f"{setting.name}: seed {', '.join(again)} more than once; such runs are no "
                "independent samples, and the intervals come out too narrow."
            )
    return found


def _validation(run: RunData) -> tuple[int, int, tuple[str, ...]]:
    return run.data.val.num_images, run.data.val.num_boxes, run.data.classes


def _flatten(value: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping) and item:
            found += _flatten(item, name)
        else:
            found.append((name, repr(list(item) if isinstance(item, tuple) else item)))
    return found


def _differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    keys = list(dict.fromkeys(key for flat in settings for key in flat))
    return [key for key in keys if len({flat.get(key) for flat in settings}) > 1]


def comparison_page(runs: Sequence[RunData]) -> str:
    """The page on several runs as HTML text."""
    settings = group_runs(runs)
    most = max(len(setting.runs) for setting in settings)
    labels = run_labels(runs)
    note = (
        "Mean over seeds, plus or minus half of the 95 % confidence interval (Student's t)."
        if most > 1
        else "One seed per setting: there are no intervals. Repeat with --set seed=1, seed=2 ..."
    )
    lead = [
        paragraph(f"{len(runs)} runs in {len(settings)} settings. {note}", "dim"),
        table(
            ["setting", "seeds", "run directories"],
            [[s.name, s.seeds, ", ".join(labels[r.run_dir] for r in s.runs)] for s in settings],
            wrap_last=True,
        ),
        *note_list("Compare with care", doubts(settings)),
    ]
    parts = [
        ("numbers", "Final numbers", _numbers(settings)),
        ("differences", "Differences", _differences(settings)),
        ("curves", "AP over training", _curves(settings)),
        ("losses", "Losses", _losses(settings)),
    ]
    sections = [(a, title, section(a, title, body)) for a, title, body in parts]
    return page(f"colad: {len(runs)} runs compared", lead, sections)


def _finals(setting: Setting, network: str, metric: str) -> list[float]:
    rows = [run.final for run in setting.runs if len(run.evaluations)]
    found = [frame[frame["network"] == network][metric] for frame in rows]
    return [
        float(values.iloc[0]) for values in found if len(values) and np.isfinite(values.iloc[0])
    ]


def _evaluated(settings: Sequence[Setting]) -> list[str]:
    """Names of all evaluated networks, in the order of the configurations."""
    names = [n for s in settings for run in s.runs for n in run.networks if n in _known(run)]
    return list(dict.fromkeys(names))


def _known(run: RunData) -> set[str]:
    return set(run.evaluations["network"]) if len(run.evaluations) else set()


def _numbers(settings: Sequence[Setting]) -> Html:
    rows = []
    for setting in settings:
        for network in _evaluated([setting]):
            cells = [_plus_minus(*interval(_finals(setting, network, m))) for m in METRIC_NAMES[:6]]
            after = sorted(int(value) for value in _finals(setting, network, "iteration"))
            when = f"{after[0]}" if after[0] == after[-1] else f"{after[0]} to {after[-1]}"
            rows.append([setting.name, network, str(len(after)), when, *cells])
    return table(["setting", "network", "n", "after", *METRIC_NAMES[:6]], rows)


def _plus_minus(mean: float, width: float) -> str:
    return number(mean) if math.isnan(width) else f"{mean:.1f} \u00b1 {width:.1f}"


def _differences(settings: Sequence[Setting]) -> Html:
    """Each further setting against the first, network by network."""
    if len(settings) < 2:
        return paragraph("All runs are of one setting.")
    first = settings[0]
    rows = []
    for setting in settings[1:]:
        for network in _evaluated([setting]):
            left, right = (_finals(s, network, "AP") for s in (first, setting))
            if not left or not right:
                continue
            gap, width = difference(left, right)
            verdict = "one seed: no interval"
            if not math.isnan(width):
                verdict = "differs" if abs(gap) > width else "no difference shown"
            rows.append([setting.name, network, _signed(gap, width), verdict])
    if not rows:
        return paragraph("The settings have no network of the same name.")
    lead = f"AP minus that of {first.name}, with the 95 % interval of the difference (Welch)."
    return join([paragraph(lead), table(["setting", "network", "AP difference", ""], rows)])


def _signed(gap: float, width: float) -> str:
    return f"{gap:+.1f}" + ("" if math.isnan(width) else f" \u00b1 {width:.1f}")


def _curves(settings: Sequence[Setting]) -> Html:
    figures = []
    for network in _evaluated(settings):
        series = [s for setting in settings if (s := _ap_series(setting, network)) is not None]
        ends = [f"{one.name} {list(one.y)[-1]:.1f}" for one in series]
        drawing = line_chart("iteration", "AP (%)", series, from_zero=True)
        text = f"Last: {'; '.join(ends)}."
        if any(one.low is not None for one in series):
            text += " Bands: 95 % intervals over seeds."
        figures.append(figure(network, drawing, text))
    return grid(figures) if figures else paragraph("No evaluation yet.")


def _ap_series(setting: Setting, network: str) -> Series | None:
    """Mean AP at the iterations that all seeds have evaluated."""
    frames = [
        run.evaluations[run.evaluations["network"] == network].set_index("iteration")["AP"]
        for run in setting.runs
        if len(run.evaluations)
    ]
    if not frames:
        return None
    together = pd.concat(frames, axis=1).dropna()
    if not len(together):
        return None
    return _band(setting.name, together.index.to_numpy(), together.to_numpy(float), marked=True)


def _band(name: str, x: Any, values: Any, *, marked: bool) -> Series:
    """Mean and interval over the columns of (points, seeds) ``values``."""
    pairs = [interval(row) for row in values]
    mean = np.array([m for m, _ in pairs])
    width = np.array([w for _, w in pairs])
    if np.isnan(width).any():
        return Series(name=name, x=x, y=mean, marked=marked)
    return Series(name=name, x=x, y=mean, low=mean - width, high=mean + width, marked=marked)


def _losses(settings: Sequence[Setting]) -> Html:
    figures = []
    names = list(dict.fromkeys(n for s in settings for r in s.runs for n in r.config.learners))
    for network in names:
        series = []
        for setting in settings:
            frames = [r.of(network).set_index("iteration")["loss_total"] for r in setting.runs]
            frames = [frame for frame in frames if len(frame)]
            if not frames:
                continue
            together = pd.concat(frames, axis=1).dropna()
            width = max(len(together) // 40, 1)
            values = np.stack([smooth(c, width) for c in together.to_numpy(float).T], axis=1)
            keep = np.unique(np.linspace(0, len(together) - 1, MAX_POINTS).astype(int))
            at = together.index.to_numpy()[keep]
            series.append(_band(setting.name, at, values[keep], marked=False))
        drawing = line_chart("iteration", "total loss (no unit)", series, from_zero=True)
        text = "Smoothed over a fortieth of the run; losses compare only within one method."
        figures.append(figure(network, drawing, text))
    return grid(figures)
