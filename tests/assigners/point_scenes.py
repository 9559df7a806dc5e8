"""Scenes for the tests of point-based assigners: points, GTs, networks that state all extras."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from assigners import Candidates, DensePredictions, GroundTruths, Priors, Step

from .scenes import make_gts, make_priors, random_boxes, random_point_predictions

CLASSES = 3
STEP = Step(iteration=30, max_iterations=100)

EDGE_SCENES: dict[str, list[Any]] = {
    "no gts": [[], []],
    "one empty image": [[], [[5, 5, 120, 120]]],
    "no candidate": [[[41, 41, 42, 42]]],
    "one candidate": [[[47, 47, 49, 49]]],
    "one pixel": [[[40, 40, 41, 41], [0, 0, 128, 128]]],
    "larger than the image": [[[-900, -900, 900, 900]]],
    "degenerate": [[[50, 50, 50, 90]]],
    "duplicated": [[[5, 5, 120, 120]] * 3],
    "crowd": [random_boxes(300, torch.Generator().manual_seed(0), low=4)],
}


def predict(priors: Priors, seed: int) -> DensePredictions:
    """A network with objectness, centre prior and property map."""
    generator = torch.Generator().manual_seed(seed)
    predictions = random_point_predictions(priors, CLASSES, generator)
    shape = (priors.num_images, CLASSES, 2)
    extras = {
        "center_mean": torch.randn(shape, generator=generator) * 0.3,
        "center_sigma": 0.7 + torch.rand(shape, generator=generator),
        "foreground": torch.rand(predictions.boxes.shape[:2], generator=generator),
        "background": torch.rand(predictions.boxes.shape[:2], generator=generator),
    }
    return replace(predictions, extras=extras)


def scene(*boxes: Any, seed: int = 0) -> tuple[DensePredictions, Priors, GroundTruths]:
    """Predictions for the given GTs, one list of boxes per image; classes in turn."""
    priors = make_priors(images=len(boxes))
    labels = [[i % CLASSES for i in range(len(own))] for own in boxes]
    return predict(priors, seed), priors, make_gts(*boxes, labels=labels)


def assign(
    assigner: Any, predictions: DensePredictions, priors: Priors, gts: GroundTruths
) -> tuple[Candidates, Any]:
    """Self-assignment."""
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    return candidates, assigner.assign(
        table, candidates, priors, gts, num_classes=CLASSES, step=STEP, live=table
    )


def in_double(predictions: DensePredictions) -> DensePredictions:
    """The predictions in float64, in which no rounding decides a rank or a threshold."""
    assert predictions.quality is not None
    return replace(
        predictions,
        cls=predictions.cls.double(),
        boxes=predictions.boxes.double(),
        quality=predictions.quality.double(),
        extras={name: value.double() for name, value in predictions.extras.items()},
    )


def one_image(predictions: DensePredictions, image: int) -> DensePredictions:
    """The predictions for one image of the batch."""
    rows = slice(image, image + 1)
    assert predictions.quality is not None
    return replace(
        predictions,
        cls=predictions.cls[rows],
        boxes=predictions.boxes[rows],
        quality=predictions.quality[rows],
        extras={name: value[rows] for name, value in predictions.extras.items()},
    )
