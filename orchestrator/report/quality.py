"""Sections on what the networks can do: AP per class and size, kinds of errors."""

from __future__ import annotations

import math
from pathlib import Path

from orchestrator.error_analysis import ERRORS, SUMS, analyse_errors
from orchestrator.errors import DataError
from orchestrator.report.charts import bar_chart
from orchestrator.report.curves import number
from orchestrator.report.page import Html, details, figure, grid, join, paragraph, table
from orchestrator.report.run_data import RunData

MAX_CLASSES = 24
"""Bars of one figure; the table holds all classes."""
AREAS = {"AP_S": "small", "AP_M": "medium", "AP_L": "large"}


def class_section(run: RunData) -> Html:
    """Per-class AP and AP by COCO's object sizes at the newest evaluation."""
    if not len(run.evaluations):
        return paragraph("No evaluation yet.")
    final = run.final.set_index("network")
    names = [name for name in run.data.classes if f"AP/{name}" in final]
    by_class = {
        network: [float(final.loc[network, f"AP/{name}"]) for name in names]
        for network in final.index
    }
    mean = {n: _mean([values[i] for values in by_class.values()]) for i, n in enumerate(names)}
    known = [i for i, name in enumerate(names) if math.isfinite(mean[name])]
    order = sorted(known, key=lambda i: mean[names[i]])
    shown = order if len(order) <= MAX_CLASSES else [*order[:12], *order[-12:]]
    figures = []
    if shown:
        drawing = bar_chart(
            "class",
            "AP (%)",
            [names[i] for i in shown],
            {network: [values[i] for i in shown] for network, values in by_class.items()},
            horizontal=True,
        )
        low, high = names[order[0]], names[order[-1]]
        text = f"Hardest: {low} ({mean[low]:.1f}); easiest: {high} ({mean[high]:.1f})."
        if len(shown) < len(order):
            text += f" The 12 hardest and 12 easiest of {len(order)} classes."
        if len(known) < len(names):
            text += f" {len(names) - len(known)} without objects in the validation data left out."
        figures.append(figure("AP per class", drawing, text))
    figures += _by_area(run)
    rows = [[name, *(number(v[i]) for v in by_class.values())] for i, name in enumerate(names)]
    listing = table(["class", *(f"AP {network}" for network in by_class)], rows)
    return join([grid(figures), details("all classes as a table", listing)])


def _by_area(run: RunData) -> list[Html]:
    """AP by COCO's object sizes, those without objects left out."""
    final = run.final.set_index("network")
    keys = [key for key in AREAS if final[key].notna().any()]
    if not keys:
        return []
    values = {network: [float(final.loc[network, key]) for key in keys] for network in final.index}
    drawing = bar_chart("object size", "AP (%)", [AREAS[key] for key in keys], values)
    text = "COCO's sizes: small below 32 x 32 pixels of the file, large above 96 x 96."
    none = [word for key, word in AREAS.items() if key not in keys]
    return [
        figure("AP by size", drawing, text + (f" No {' or '.join(none)} ones." if none else ""))
    ]


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def error_section(run: RunData) -> Html:
    """TIDE's components: the AP50 that mending each kind of error would win."""
    if not run.detections:
        return paragraph("Not available for this run.")
    results = {}
    try:
        for name, found in run.detections.items():
            results[name] = analyse_errors(
                found, Path(run.data.val.annotations), list(run.data.classes)
            )
    except DataError as error:
        run.lacks.append(f"Kinds of errors: {error}")
        return paragraph("Not available: the annotations cannot be read.")
    figures = []
    for title, kinds in (("kinds of errors", ERRORS), ("false positives and negatives", SUMS)):
        words = [kind.replace("_", " ") for kind in kinds]
        values = {name: [result.gains[k] for k in kinds] for name, result in results.items()}
        drawing = bar_chart("kind", "AP50 lost (points)", words, values, horizontal=True)
        largest = {
            name: max(kinds, key=lambda kind: results[name].gains[kind]).replace("_", " ")
            for name in results
        }
        costs = [f"{name} loses most by {kind}" for name, kind in largest.items()]
        text = f"{'; '.join(costs)}. AP50 as it is: " + ", ".join(
            f"{name} {result.ap50:.1f}" for name, result in results.items()
        )
        figures.append(figure(title, drawing, f"{text}."))
    lead = (
        "How many points of AP50 would be won if errors of one kind alone were mended (TIDE). "
        "class: wrong class, good box; location: right class, IoU 0.1 to 0.5; both: both wrong; "
        "duplicate: second box of a found object; background: nothing there; missed: object that "
        "nothing stands for."
    )
    rows = [
        [kind.replace("_", " "), *(f"{result.gains[kind]:.2f}" for result in results.values())]
        for kind in (*ERRORS, *SUMS)
    ]
    rows.append(["AP50 as it is", *(f"{result.ap50:.2f}" for result in results.values())])
    listing = table(["AP50 lost (points)", *results], rows)
    return join([paragraph(lead), grid(figures), details("all errors as a table", listing)])
