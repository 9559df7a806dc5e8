"""How often a whole step of a head would make the host wait for a GPU, after the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmdet")

from tests.support.waits import Waits  # noqa: E402

from .dense_cases import HEADS, HeadStep, build  # noqa: E402

CANDIDATES = dict(nonzero=1)
# Of mmdet: the means and deviations of PAA's box coder; on each level of TOOD's, the base anchors
# and four columns read by lists.
BEGIN: dict[str, dict[str, int]] = {
    "PAA": dict(new_tensor=2),
    "DW on TOOD": dict(to=3, __getitem__=12),
}
# Beside PAA's are numpy's, which fits the mixtures on a CPU.
ASSIGN: dict[str, dict[str, int]] = {
    "PAA": dict(index=1, nonzero=1),
    "MuSu": dict(nonzero=1),
    "MuSu three": dict(nonzero=1),
}
# mmdet's one_hot (twice; on a CPU only), its look at the weights of boxes, its EPS of an IoU.
LOSSES: dict[str, dict[str, int]] = {"PAA": dict(_local_scalar_dense=3, new_tensor=1)}


@pytest.mark.parametrize("name", HEADS)
def test_a_step_waits_as_often_as_it_says(name: str) -> None:
    """Of our code: once for the candidates, for the shapes of an assignment, never for a loss."""
    step = HeadStep(build(name), [0, 2])
    step.begin()
    with Waits() as begin:
        step.begin()
    with Waits() as assign:
        step.assign()
    with Waits() as losses:
        step.losses()
    assigning = {kind: count for kind, count in assign.counts.items() if kind != "numpy"}
    assert begin.counts == CANDIDATES | BEGIN.get(name, {})
    assert assigning == ASSIGN.get(name, {})
    assert losses.counts == LOSSES.get(name, {})


ONES = torch.ones(3)
WAITING: dict[str, Any] = {
    "nonzero": lambda: ONES.nonzero(),
    "index": lambda: ONES[ONES > 0],
    "_local_scalar_dense": lambda: ONES.sum().item(),
    "repeat_interleave": lambda: ONES.repeat_interleave(torch.tensor([1, 2, 0])),
    "cpu": lambda: ONES.cpu(),
    "tolist": lambda: ONES.tolist(),
    "numpy": lambda: ONES.numpy(),
    "to": lambda: ONES.to("cpu"),
    "new_tensor": lambda: ONES.new_tensor([1.0]),
    "tensor": lambda: torch.tensor([1.0], device="cpu"),
    "as_tensor": lambda: torch.as_tensor([1.0], device="cpu"),
    "__getitem__": lambda: ONES[[0, 2]],
}


@pytest.mark.parametrize("kind", WAITING)
def test_the_count_sees_what_waits(kind: str) -> None:
    with Waits() as waits:
        WAITING[kind]()
    assert waits.counts == {kind: 1}


def test_the_count_leaves_out_what_does_not_wait() -> None:
    with Waits() as waits:
        ONES.to("cpu", non_blocking=True)
        ONES.to(torch.float64)
        torch.full((), 2.0, device="cpu")
        torch.tensor(2.0)  # on the host
        ONES[torch.tensor([0, 2])]
        ONES.repeat_interleave(torch.tensor([1, 2, 0]), output_size=3)
    assert waits.counts == {} and waits.operations > 0
