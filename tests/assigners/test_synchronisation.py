"""What a GPU would wait for: operations whose result decides a shape or comes to the host.

They are counted on a CPU, where every method runs the same operations but for PAA's mixture, which
is numpy's there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from assigners import build_assigner
from benchmarks.assignment import CLASSES, STEP, Scene

WAITING = {"aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::_unique2"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}


def _any_mask(indices: Sequence[Any]) -> bool:
    """Whether there is a boolean mask among them, of which torch takes the ``nonzero``."""
    return any(index is not None and index.dtype == torch.bool for index in indices)


class Count(TorchDispatchMode):
    """Counts the operations that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        self.waits += name in WAITING or (name in INDEXING and _any_mask(args[1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("method", "assigning"), [("DW", 0), ("AutoAssign", 0), ("ALA", 0), ("MuSu", 1), ("PAA", 2)]
)
def test_a_step_waits_as_often_as_it_says(method: str, assigning: int) -> None:
    """Once for the candidates, never for the costs, and for the shapes of an assignment."""
    scene = Scene.make(8, anchors=method == "PAA", size=(160, 160))
    assigner = build_assigner({"type": method})
    with Count() as candidates_count:
        candidates = assigner.candidates(scene.priors, scene.gts)
    with Count() as costs_count:
        table = assigner.costs(scene.predictions, candidates, scene.gts)
    with Count() as assign_count:
        assigner.assign(
            table,
            candidates,
            scene.priors,
            scene.gts,
            num_classes=CLASSES,
            step=STEP,
            live=table,
        )
    waits = (candidates_count.waits, costs_count.waits, assign_count.waits)
    assert waits == (1, 0, assigning)
