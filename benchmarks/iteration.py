"""The iteration: ours (two actors, one thread each) against in-process peers (two threads).

    colad/apart        two co-training networks over the same two as independent solo trainings at
                       once on one feed: what co-training itself costs. The slower of each block
                       counts, which noise makes slower still, and in a second line their mean
    colad/in-process   against the same networks one after the other in one process, with mmdet's
                       mixture fit per GT and with ours
    lad/mmdet          against mmdet's ``LAD`` detector, with its mixture fits and with ours
                       instead, and against the student alone

All take turns in blocks of few iterations. The notes of the first say where the cores' time goes:
what co-training adds is its networks' additional time, and waiting.
"""

from __future__ import annotations

import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.cores import CoreUse
from benchmarks.harness import Pair, Result
from orchestrator.quiet import quiet_environment

if TYPE_CHECKING:
    from benchmarks.loops import Together

BLOCK = 10
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "tiny" / "colad_shapes.py"


def in_turns(
    runners: Mapping[str, Callable[[int], list[float]]], iterations: int
) -> dict[str, list[float]]:
    """Median seconds of each block of each runner."""
    medians: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(-(-iterations // BLOCK)):
        for name, run in runners.items():
            medians[name].append(statistics.median(run(BLOCK)))
    return medians


def run(quick: bool) -> list[Result]:
    """All pairs; ``quick``: 40 iterations of each instead of 200."""
    quiet_environment()
    import ray

    iterations = 40 if quick else 200
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's fits that do not converge
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        try:
            runners, apart, gts = _make_runners(Path(folder))
            in_turns(runners, BLOCK)  # warm-up
            apart.blocks.clear()
            use = {name: CoreUse(run) for name, run in runners.items()}
            medians = in_turns(use, iterations)
        finally:
            ray.shutdown()
    medians["apart, mean"] = [
        statistics.mean(statistics.median(loop) for loop in block) for block in apart.blocks
    ]
    notes = {"apart": "; ".join(f"{name}: {use[name]}" for name in ("colad", "apart"))}
    notes["apart, mean"] = added_parts(use["colad"], use["apart"], apart.blocks)
    return _results(medians, gts, notes)


def added_parts(ours: CoreUse, apart: CoreUse, blocks: Sequence[Sequence[Sequence[float]]]) -> str:
    """How much of what co-training adds is work of a network, on a core of its own, and waiting.

    Args:
        blocks: seconds of the iterations apart, by block and loop.
    """
    loops = len(blocks[0])
    alone = statistics.mean(s for block in blocks for loop in block for s in loop)
    added = ours.wall_ms / ours.iterations - 1e3 * alone
    work = (ours.each("networks") - apart.each("networks")) / loops
    return (
        f"peer: the mean of both; of {added:+.1f} ms (means) {work:+.1f} are work of each network "
        f"on its core and {added - work:+.1f} waiting"
    )


def _make_runners(root: Path) -> tuple[dict[str, Callable[[int], list[float]]], Together, float]:
    """All loops, those that run apart, and the mean number of GTs per batch."""
    from benchmarks.loops import Feed, Loop, Together
    from benchmarks.peers import InProcessCoLAD, MMDetLAD, make_batches
    from orchestrator.building import build_detector, resolve_model
    from orchestrator.config import NetworkConfig, SwitchConfig
    from orchestrator.config_file import load_config
    from orchestrator.datasets import prepare_data

    base = load_config(CONFIG, [f"data.root={root / 'shapes'}"])
    data = prepare_data(base.data, root)
    equal = NetworkConfig(preset="tiny_r18")
    colad = replace(base, networks={"a": equal, "b": equal})
    solo = replace(colad, switch=SwitchConfig(criterion="self"))
    checkpoint = root / "teacher.pth"
    larger = NetworkConfig(preset="tiny_r34")
    detector, _ = build_detector("a", larger, len(data.classes), 0, classes=data.classes)
    torch.save(detector.state_dict(), checkpoint)  # random: its time is that of a trained one
    frozen = replace(larger, learner=False, checkpoint=str(checkpoint))
    lad = replace(
        colad,
        networks={"a": frozen, "b": equal},
        switch=SwitchConfig(criterion="fixed", teacher="a"),
    )
    feed, alone = Feed(solo, data, readers=2), replace(solo, networks={"b": equal})
    apart = Together([Loop(replace(solo, networks={n: equal}), data, feed) for n in ("a", "b")])
    student_alone = Loop(alone, data)
    ours, taught = Loop(colad, data), Loop(lad, data)
    batches = make_batches(colad, data)
    whole = replace(colad, resources=replace(colad.resources, threads=2))
    with_fit = InProcessCoLAD(whole, data, batches, loop_fit=True)
    without = InProcessCoLAD(whole, data, batches, loop_fit=False)
    student, teacher = (
        resolve_model(name, lad.networks[name], len(data.classes)) for name in ("b", "a")
    )
    mmdet_lad, mmdet_lad_our_fit = (
        MMDetLAD(lad, student, teacher, batches, loop_fit=loop_fit) for loop_fit in (True, False)
    )
    torch.set_num_threads(2)
    runners = {
        "colad": ours.run,
        "apart": apart.run,
        "in-process": with_fit.run,
        "in-process, our fit": without.run,
        "lad": taught.run,
        "mmdet LAD": mmdet_lad.run,
        "mmdet LAD, our fit": mmdet_lad_our_fit.run,
        "student alone": student_alone.run,
    }
    return runners, apart, sum(sum(batch.counts) for batch in batches) / len(batches)


def _results(medians: dict[str, list[float]], gts: float, notes: Mapping[str, str]) -> list[Result]:
    def pair(ours: str, peer: str) -> Pair:
        return Pair(ours=medians[ours], peer=medians[peer])

    per_batch = f"{gts:.0f} GTs per batch"
    return [
        pair("colad", "apart").result(
            "iteration/colad-over-apart",
            goal=1.03,
            better="lower",
            note="the limit: the slower of the same networks, trained apart at once; "
            + notes["apart"],
        ),
        pair("colad", "apart, mean").result(
            "iteration/colad-over-apart-mean", goal=None, better="lower", note=notes["apart, mean"]
        ),
        pair("colad", "in-process").result(
            "iteration/colad-vs-in-process", goal=1.6, note=per_batch
        ),
        pair("colad", "in-process, our fit").result(
            "iteration/colad-vs-in-process-our-fit", goal=None
        ),
        pair("lad", "mmdet LAD").result("iteration/lad-vs-mmdet", goal=1.2, note=per_batch),
        pair("lad", "mmdet LAD, our fit").result(
            "iteration/lad-vs-mmdet-our-fit",
            goal=None,
            note="mmdet's detector with our mixture fit, of all GTs at once",
        ),
        pair("lad", "student alone").result(
            "iteration/lad-over-student-alone",
            goal=None,
            better="lower",
            note="the ideal: a teacher that costs no time at all",
        ),
    ]
