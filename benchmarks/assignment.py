"""Assignment at COCO's size: 22,400 priors, one thread.

PAA against mmdet's ``paa_reassign`` on the same candidates and costs, its candidates and the other
methods against their plain dense form (``dense.py``), time and peak memory, and how our times grow.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from assigners import (
    Candidates,
    CostTable,
    DensePredictions,
    GroundTruths,
    PAAAssigner,
    Priors,
    Step,
    build_assigner,
)
from benchmarks import dense
from benchmarks.harness import Result, interleave, peak_bytes
from benchmarks.scenes import CLASSES, make_gts, make_predictions, make_priors

STEP = Step(iteration=0, max_iterations=1000)
DENSE: dict[str, Callable[..., dict[str, Tensor]]] = {
    "DW": dense.dw,
    "AutoAssign": dense.autoassign,
    "ALA": dense.ala,
    "MuSu": dense.musu,
}
PAA_GOALS = {8: 10.0, 112: 25.0}
MOST_DIFFERING = 0.02
"""Labels per GT in which mmdet may differ, one in any case: where two samples of a lower component
have nearly the same density, rounding decides between them."""
MEMORY_GTS = 100
MEMORY_GOAL = 5.0
LINEAR = 1.05
"""Largest exponent that counts as linear: medians of a shared machine scatter by some percent."""


@dataclass(frozen=True)
class Scene:
    """One image of COCO's size and what a network says of it."""

    priors: Priors
    gts: GroundTruths
    predictions: DensePredictions

    @classmethod
    def make(cls, num_gts: int, *, anchors: bool, size: tuple[int, int] = (800, 1344)) -> Scene:
        """Anchors for PAA, points for the others."""
        priors = make_priors(size, anchors=anchors)
        return cls(priors, make_gts(num_gts, size=size), make_predictions(priors, anchors=anchors))


def assign_whole(assigner: Any, scene: Scene) -> tuple[Candidates, Any]:
    """Candidates, costs and assignment, as an iteration does them."""
    candidates = assigner.candidates(scene.priors, scene.gts)
    table = assigner.costs(scene.predictions, candidates, scene.gts).detach()
    assignment = assigner.assign(
        table,
        candidates,
        scene.priors,
        scene.gts,
        num_classes=CLASSES,
        step=STEP,
        live=table,
    )
    return candidates, assignment


# -- PAA against mmdet --------------------------------------------------------------------------


def mmdet_reassign(
    scene: Scene, candidates: Candidates, table: CostTable
) -> Callable[[], tuple[Tensor, ...]]:
    """mmdet's call on the same candidates and costs, prepared."""
    from models.mmcv_ops import install

    install()
    from mmdet.models.dense_heads.paa_head import PAAHead

    head = PAAHead(num_classes=CLASSES, in_channels=32, feat_channels=32)
    assert scene.priors.boxes is not None
    anchors = list(scene.priors.boxes.split(scene.priors.level_sizes))
    order = candidates.prior.argsort()
    prior, gt = candidates.prior[order], candidates.gt[order]
    label = torch.full((scene.priors.num_priors,), CLASSES, dtype=torch.int64)
    label[prior] = scene.gts.labels[gt]
    weight = torch.ones(scene.priors.num_priors)
    box_weight = torch.ones(scene.priors.num_priors, 4)
    cost = table.cost[order]
    return lambda: head.paa_reassign(cost, label, weight, box_weight, prior, gt, anchors)


def paa_against_mmdet(counts: tuple[int, ...], rounds: int) -> list[Result]:
    """Speed-up of ``PAAAssigner.assign``; the note says in how many labels the two differ.

    Raises:
        AssertionError: in more than rounding explains.
    """
    results = []
    assigner = PAAAssigner()
    for count in counts:
        scene = Scene.make(count, anchors=True)
        candidates = assigner.candidates(scene.priors, scene.gts)
        table = assigner.costs(scene.predictions, candidates, scene.gts)

        ours = partial(
            assigner.assign, table, candidates, scene.priors, scene.gts, num_classes=CLASSES
        )
        peer = mmdet_reassign(scene, candidates, table)
        differing = int((ours().labels[0] != peer()[0]).sum())
        if differing > max(1.0, MOST_DIFFERING * count):
            raise AssertionError(f"PAA, {count} GTs: {differing} labels differ from mmdet's")
        pair = interleave(ours, peer, rounds=rounds)
        results.append(
            pair.result(
                f"assign/PAA/{count}-gts",
                goal=PAA_GOALS.get(count),
                note=f"{differing} of {scene.priors.num_priors} labels differ",
            )
        )
    return results


# -- the others against their dense form --------------------------------------------------------


def check_equal(name: str, scene: Scene) -> None:
    """The dense form gives our weights.

    Raises:
        AssertionError: it does not, so that a comparison of times would mean nothing.
    """
    candidates, assignment = assign_whole(build_assigner({"type": name}), scene)
    pairs = assignment.candidates
    for key, weights in DENSE[name](scene.predictions, scene.priors, scene.gts).items():
        ours = torch.zeros_like(weights)
        ours[pairs.prior, pairs.gt] = getattr(assignment, key).to(weights)
        # Rounding may swap neighbours in a rank or at a threshold.
        far = ~torch.isclose(ours, weights, rtol=1e-3, atol=1e-4)
        if int(far.sum()) > max(4, 1e-3 * len(candidates)):
            raise AssertionError(f"{name}: {int(far.sum())} of {len(candidates)} {key} differ")


def others_against_dense(counts: tuple[int, ...], rounds: int) -> list[Result]:
    """Speed-up of candidates + costs + assignment, and peak memory at ``MEMORY_GTS``."""
    results = []
    for name, plain in DENSE.items():
        assigner = build_assigner({"type": name})
        for count in counts:
            scene = Scene.make(count, anchors=False)
            check_equal(name, scene)
            with torch.no_grad():
                pair = interleave(
                    lambda a=assigner, s=scene: assign_whole(a, s),
                    lambda p=plain, s=scene: p(s.predictions, s.priors, s.gts),
                    rounds=rounds,
                )
            results.append(pair.result(f"assign/{name}/{count}-gts", goal=None))
        results.append(_memory(name, plain))
    return results


def paa_against_dense(counts: tuple[int, ...], rounds: int) -> list[Result]:
    """PAA's candidates and costs, whose dense form differs in the matching, and peak memory.

    Raises:
        AssertionError: the two find different candidates.
    """
    results = []
    assigner = PAAAssigner()
    for count in counts:
        scene = Scene.make(count, anchors=True)

        def ours(s: Scene = scene) -> tuple[Candidates, CostTable]:
            candidates = assigner.candidates(s.priors, s.gts)
            return candidates, assigner.costs(s.predictions, candidates, s.gts)

        def peer(s: Scene = scene) -> tuple[Candidates, CostTable]:
            candidates = dense.paa(s.predictions, s.priors, s.gts)
            return candidates, assigner.costs(s.predictions, candidates, s.gts)

        if not same_candidates(ours()[0], peer()[0]):
            raise AssertionError(f"PAA, {count} GTs: the dense form finds other candidates")
        note = "candidates and costs; the dense form matches all anchors with all GTs at once"
        pair = interleave(ours, peer, rounds=rounds)
        results.append(pair.result(f"assign/PAA-candidates/{count}-gts", goal=None, note=note))
    return [*results, _memory("PAA", dense.paa)]


def same_candidates(ours: Candidates, peer: Candidates) -> bool:
    """The same pairs in the same order."""
    fields = ("image", "gt", "prior", "level")
    return all(torch.equal(getattr(ours, name), getattr(peer, name)) for name in fields)


def _memory(name: str, plain: Callable[..., Any]) -> Result:
    scene = Scene.make(MEMORY_GTS, anchors=name == "PAA")
    assigner = build_assigner({"type": name})
    with torch.no_grad():
        ours = peak_bytes(lambda: assign_whole(assigner, scene))
        peer = peak_bytes(lambda: plain(scene.predictions, scene.priors, scene.gts))
    return Result(
        name=f"memory/{name}/{MEMORY_GTS}-gts",
        ours=ours / 2**20,
        peer=peer / 2**20,
        ratio=peer / ours,
        goal=MEMORY_GOAL,
        better="higher",
        unit="MiB",
        note="the peer only finds candidates" if name == "PAA" else "",
    )


# -- growth -------------------------------------------------------------------------------------


def growth(rounds: int) -> list[Result]:
    """Exponent of our time in GTs (100 to 400) and in priors (22,400 to 89,600)."""
    results = []
    for name in ("PAA", *DENSE):
        anchors = name == "PAA"
        by_gts = [Scene.make(count, anchors=anchors) for count in (100, 400)]
        by_priors = [
            Scene.make(100, anchors=anchors, size=(400 * scale, 672 * scale)) for scale in (2, 4)
        ]
        for what, scenes in (("gts", by_gts), ("priors", by_priors)):
            results.append(_growth(name, what, *scenes, rounds))
    return results


def _growth(name: str, what: str, small: Scene, large: Scene, rounds: int) -> Result:
    """Two scenes in turns, the large one with four times as many GTs or priors."""
    assigner = build_assigner({"type": name})
    with torch.no_grad():
        pair = interleave(
            partial(assign_whole, assigner, large),
            partial(assign_whole, assigner, small),
            rounds=rounds,
        )
    exponents = [math.log(ours / peer, 4) for ours, peer in zip(pair.ours, pair.peer)]
    return Result(
        name=f"growth/{name}/{what}",
        ours=1e3 * statistics.median(pair.ours),
        peer=1e3 * statistics.median(pair.peer),
        ratio=statistics.median(exponents),
        goal=LINEAR,
        better="lower",
        unit="ms (ratio: exponent, median of the rounds')",
        low=min(exponents),
        high=max(exponents),
        note=f"4 x {what}: 1 is linear",
    )


def run(quick: bool) -> list[Result]:
    """All of it; ``quick``: the goals' own sizes, fewer rounds."""
    torch.set_num_threads(1)
    rounds = 7 if quick else 21
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's fits that do not converge
        results = paa_against_mmdet((8, 112) if quick else (1, 8, 32, 112, 400), rounds)
    counts = (100,) if quick else (8, 100, 400)
    results += others_against_dense(counts, rounds) + paa_against_dense(counts, rounds)
    return results + growth(rounds)
