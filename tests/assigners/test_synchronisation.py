"""What a GPU would wait for: operations whose result decides a shape or comes to the host.

They are counted on a CPU, where every method runs the same operations but for PAA's mixture, which
is numpy's there.
"""

from __future__ import annotations

import pytest

from assigners import build_assigner
from benchmarks.assignment import CLASSES, STEP, Scene
from tests.support.waits import Operations


@pytest.mark.parametrize(
    ("method", "assigning"), [("DW", 0), ("AutoAssign", 0), ("ALA", 0), ("MuSu", 1), ("PAA", 2)]
)
def test_a_step_waits_as_often_as_it_says(method: str, assigning: int) -> None:
    """Once for the candidates, never for the costs, and for the shapes of an assignment."""
    scene = Scene.make(8, anchors=method == "PAA", size=(160, 160))
    assigner = build_assigner({"type": method})
    with Operations() as candidates_count:
        candidates = assigner.candidates(scene.priors, scene.gts)
    with Operations() as costs_count:
        table = assigner.costs(scene.predictions, candidates, scene.gts)
    with Operations() as assign_count:
        assigner.assign(
            table,
            candidates,
            scene.priors,
            scene.gts,
            num_classes=CLASSES,
            step=STEP,
            live=table,
        )
    counts = (candidates_count, costs_count, assign_count)
    assert tuple(count.waits.total() for count in counts) == (1, 0, assigning)
