"""Sections with images: assignments of each network and of their choice, predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from orchestrator.data.coco import load_coco
from orchestrator.error_analysis import judge_image
from orchestrator.errors import CoTrainError
from orchestrator.evaluation import Detections
from orchestrator.report import panels
from orchestrator.report.charts import to_svg
from orchestrator.report.maps import (
    AssignmentView,
    Method,
    assign_scene,
    method_at_start,
    method_of_run,
)
from orchestrator.report.page import Html, element, figure, grid, join, paragraph
from orchestrator.report.run_data import RunData, checkpoint_iteration
from orchestrator.report.scenes import Scene, make_scenes
from orchestrator.saved_runs import open_run

SCENES = 3
MOMENTS = 4
"""Moments of training at most: the start, and the checkpoints kept."""
HIT, WRONG, OBJECT = "#4cb5ff", "#ff9a3c", "#ffffff"


def pick_scenes(run: RunData, count: int = SCENES) -> list[Scene]:
    """Validation images with few, a medium number of and many objects; none where data is gone."""
    try:
        split = run.data.val
        coco_set = load_coco(split.annotations, split.images, classes=run.data.classes)
        objects = Counter(a["image_id"] for a in coco_set.annotations)
        order = sorted(objects, key=lambda image_id: (objects[image_id], image_id))
        at = (np.linspace(0.25, 0.9, count) * (len(order) - 1)).round().astype(int)
        ids = [order[i] for i in np.unique(at)]
        return make_scenes(coco_set, run.config.data, run.data.classes, ids)
    except (CoTrainError, OSError) as error:
        run.lacks.append(f"Sample images: the data of the run cannot be read ({error}).")
        return []


def read_moments(run: RunData) -> list[tuple[str, Method]]:
    """The networks at the start and at checkpoints spread over those that are kept."""
    moments: list[tuple[str, Method]] = []
    kept = list(run.checkpoints)
    if not kept:
        run.lacks.append("Assignments of sample images: no checkpoint is kept yet.")
        return []
    picks = np.unique(np.linspace(0, len(kept) - 1, min(MOMENTS - 1, len(kept))).round())
    try:
        saved = open_run(kept[-1])
        if saved.iteration > 0:
            moments.append(("at the start", method_at_start("", saved)))
    except CoTrainError as error:  # a teacher's file that is gone, for example
        run.lacks.append(f"Assignments at the start: {error}")
    for pick in picks.astype(int):
        path = kept[pick]
        try:
            name = f"after {checkpoint_iteration(path)} iterations"
            moments.append((name, method_of_run("", open_run(path))))
        except CoTrainError as error:
            run.lacks.append(f"Assignments at {path.name}: {error}")
    if len(kept) < 3 and run.config.checkpoint.keep < 4:
        run.lacks.append(
            f"More moments of the assignments: {len(kept)} checkpoint(s) are kept; "
            "checkpoint.interval and checkpoint.keep say how many."
        )
    return moments


def assignment_section(
    run: RunData, scenes: Sequence[Scene], moments: Sequence[tuple[str, Method]]
) -> Html:
    """Per sample image: every network and the choice at the end, then how they changed."""
    if not scenes or not moments:
        return paragraph("Not available for this run.")
    parts = [
        paragraph(
            "Orange to yellow: how strongly a location learns the object, as a share of the "
            "object's largest weight. Blue: how strongly it learns background; holes in the blue "
            "are spared. White outlines: ground truth. Pixels are those of the network's input."
        )
    ]
    for scene in scenes:
        try:
            views = [(when, assign_scene(method, scene)) for when, method in moments]
        except CoTrainError as error:
            run.lacks.append(f"Assignments of {scene.name}: {error}")
            continue
        parts.append(element("h3", f"{scene.name}: {len(scene.batch.boxes)} objects"))
        parts.append(_newest(scene, *views[-1]))
        if len(views) > 1:
            parts.append(_history(scene, views))
    return join(parts)


def _newest(scene: Scene, when: str, views: Sequence[AssignmentView]) -> Html:
    """One figure per network, one for the choice, all with the same levels."""
    levels = panels.used_levels(views)
    figures = []
    for view in views:
        drawing = panels.draw_view(scene, view, levels)
        text = f"{panels.reading(view)}, {when}.{_who(view)}"
        figures.append(figure(view.title, to_svg(drawing, f"assignment of {view.title}"), text))
    return grid(figures)


def _who(view: AssignmentView) -> str:
    if not view.taught:
        return ""
    shares = [f"{name} {share:.0%}" for name, share in view.taught.items()]
    return f" Taught by {', '.join(shares)}."


def _history(scene: Scene, views: Sequence[tuple[str, Sequence[AssignmentView]]]) -> Html:
    """One figure per network: positives of all levels at each moment."""
    figures = []
    for index, last in enumerate(views[-1][1]):
        column = [(when, row[index]) for when, row in views]
        drawing = panels.draw_history(scene, column)
        means = [f"{v.counts.mean():.1f} {when}" for when, v in column if len(v.counts)]
        text = f"All levels together. Positives per object: {', '.join(means)}."
        name = f"{last.title} over training"
        figures.append(figure(name, to_svg(drawing, name), text))
    return grid(figures)


# -- predictions --------------------------------------------------------------------------------


def prediction_section(run: RunData, scenes: Sequence[Scene]) -> Html:
    """Per sample image and network: its best boxes, right and wrong, over the ground truth."""
    if not scenes or not run.detections:
        return paragraph("Not available for this run.")
    parts = [
        paragraph(
            "Each network's best boxes, as many as there are objects. Solid blue: a hit (right "
            "class, IoU of at least 0.5); dashed orange: wrong; white: ground truth, dotted where "
            "it was missed."
        )
    ]
    for scene in scenes:
        parts.append(element("h3", f"{scene.name}: {len(scene.batch.boxes)} objects"))
        figures = [_predicted(scene, name, found) for name, found in run.detections.items()]
        parts.append(grid(figures))
    return join(parts)


def _predicted(scene: Scene, name: str, found: Detections) -> Html:
    truths, labels = scene.batch.boxes.astype(np.float64), scene.batch.labels
    rows = np.flatnonzero(found.image_id == scene.image_id)
    rows = rows[np.argsort(-found.score[rows], kind="stable")][: len(truths)]
    boxes = found.boxes[rows].astype(np.float64) * np.tile(scene.scale, 2)
    crowd = np.zeros(len(truths), dtype=bool)
    verdict = judge_image(boxes, found.category[rows], truths, labels, crowd)
    kind, hit = verdict.kind, verdict.found
    right = kind == "hit"

    def draw(axes: Axes) -> None:
        panels.background(axes, scene)
        panels.draw_boxes(axes, truths[hit], OBJECT, "-", 0.7)
        panels.draw_boxes(axes, truths[~hit], OBJECT, ":", 1.1)
        panels.draw_boxes(axes, boxes[~right], WRONG, "--", 1.1)
        panels.draw_boxes(axes, boxes[right], HIT, "-", 1.1)

    drawing = panels.draw_photo(scene, draw)
    wrong = Counter(kind[~right].tolist())
    listed = ", ".join(f"{count} {what}" for what, count in wrong.most_common()) or "none"
    text = f"{int(hit.sum())} of {len(truths)} objects found; wrong boxes: {listed}."
    if len(rows):
        text += f" Scores from {found.score[rows[-1]]:.2f} to {found.score[rows[0]]:.2f}."
    return figure(name, to_svg(drawing, f"predictions of {name}"), text)
