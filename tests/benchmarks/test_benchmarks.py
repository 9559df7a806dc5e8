"""The benchmarks' own code: what becomes a figure, and that every part still runs."""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from assigners.boxes import pairwise_giou, pairwise_iou
from benchmarks import assignment, dense, evaluation, harness, iteration, long_run, scale
from benchmarks.cores import CoreUse
from benchmarks.harness import Pair, Result, interleave, peak_bytes
from orchestrator.config_file import load_config
from orchestrator.datasets import PreparedData, prepare_data
from tests.support.runs import CONFIG, SMALL

ROOT = Path(__file__).resolve().parents[2]
LINE = {"name", "ours", "peer", "ratio", "goal", "better", "unit"}


def result(name: str = "a", **values: Any) -> Result:
    line = dict(ours=1.0, peer=2.0, ratio=2.0, goal=None, better="higher", unit="ms")
    return Result(name=name, **{**line, **values})


# -- the command --------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of ``python -m benchmarks`` with these arguments, which must not measure."""
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")  # the command would leave it set
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("benchmarks", run_name="__main__")
    assert isinstance(end.value.code, int)
    return end.value.code


def test_help_names_every_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    parts = runpy.run_module("benchmarks")["PARTS"]
    for name in parts:
        assert f"{name}: " in shown
        module = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        assert "\ndef run(quick: bool) -> list[Result]:" in module


def test_an_unknown_part_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "asignment") == 2
    assert "unknown part 'asignment'" in capsys.readouterr().err


def test_a_run_is_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(quick: bool) -> list[Result]:
        assert quick
        return [result("reached", goal=1.5), result("missed", goal=3.0)]

    monkeypatch.setattr(assignment, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "assignment"])
    monkeypatch.setattr(harness.save, "__defaults__", (tmp_path,))
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    runpy.run_module("benchmarks", run_name="__main__")
    shown = capsys.readouterr().out
    assert ">= 1.5 reached" in shown and ">= 3 MISSED" in shown
    (path,) = tmp_path.glob("2*.json")
    written = json.loads(path.read_text())
    assert [row["name"] for row in written["results"]] == ["reached", "missed"]
    assert {"versions", "processor", "cores", "load", "gpu", "time"} <= written["machine"].keys()
    assert "torch" in written["machine"]["versions"]


# -- the harness --------------------------------------------------------------------------------


def test_ratios_are_medians_over_rounds() -> None:
    pair = Pair(ours=[1.0, 2.0, 4.0], peer=[4.0, 4.0, 4.0])
    faster = pair.result("speed-up", goal=2.5)
    assert (faster.ratio, faster.low, faster.high) == (2.0, 1.0, 4.0)
    assert (faster.ours, faster.peer, faster.reached) == (2000.0, 4000.0, False)
    slower = pair.result("cost", goal=0.5, better="lower")
    assert (slower.ratio, slower.low, slower.high, slower.reached) == (0.5, 0.25, 1.0, True)
    assert pair.result("free", goal=None).reached is None


def test_interleaving_takes_turns() -> None:
    calls: list[str] = []
    pair = interleave(lambda: calls.append("o"), lambda: calls.append("p"), rounds=2, repeat=2)
    assert "".join(calls) == "op" + 2 * "oopp"
    assert len(pair.ours) == len(pair.peer) == 2


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def call() -> None:
        for _ in range(3):
            torch.ones(1 << 18).sum()  # 1 MiB, freed before the next

    assert 1 << 20 <= peak_bytes(call) < 2 << 20


def test_latest_keeps_the_newest_line_of_every_name(tmp_path: Path) -> None:
    for day, lines in (("01", [result("a"), result("b")]), ("02", [result("b", ours=5.0)])):
        harness.save(lines, {"time": f"2026-01-{day} 00:00:00"}, tmp_path)
    rows = {row["name"]: row for row in json.loads((tmp_path / "latest.json").read_text())}
    assert {name: (row["ours"], row["run"]) for name, row in rows.items()} == {
        "a": (1.0, "2026-01-01_000000"),
        "b": (5.0, "2026-01-02_000000"),
    }


def test_the_kept_results_are_of_the_promised_form() -> None:
    rows = json.loads((harness.RESULTS / "latest.json").read_text())
    runs = {row["run"]: harness.RESULTS / f"{row['run']}.json" for row in rows}
    assert all(path.is_file() for path in runs.values())
    for row in rows:
        assert row.keys() >= LINE
        assert row["better"] in ("higher", "lower")


METHODS = ("PAA", "DW", "AutoAssign", "ALA", "MuSu")
PROCESSES = ("controller", "launcher", "feeder-0", "network-r18", "network-r34", "object-store")
PROCESSES += ("gcs", "raylet", "gcs-over-idle", "raylet-over-idle", "notice-board", "log-monitor")
GOALS = {
    "assign/PAA/8-gts": (10.0, "higher"),
    "assign/PAA/112-gts": (25.0, "higher"),
    **{f"memory/{method}/100-gts": (5.0, "higher") for method in METHODS},
    **{f"growth/{m}/{what}": (1.05, "lower") for m in METHODS for what in ("gts", "priors")},
    "iteration/colad-vs-in-process": (1.6, "higher"),
    "iteration/lad-vs-mmdet": (1.2, "higher"),
    "iteration/colad-over-apart": (1.03, "lower"),
    **{f"exchange/coco/{method}": (7.0, "lower") for method in METHODS},
    **{f"long-run/{process}": (1.03, "lower") for process in PROCESSES},
    "scale/32-ranks": (0.05, "lower"),
    "scale/growth/added": (1.0, "lower"),
    "scale/growth/controller": (1.0, "lower"),
}


def test_the_kept_results_have_every_goal() -> None:
    rows = {row["name"]: row for row in json.loads((harness.RESULTS / "latest.json").read_text())}
    assert {name: (rows[name]["goal"], rows[name]["better"]) for name in GOALS} == GOALS
    unnamed = [row["name"] for row in rows.values() if row["goal"] and row["name"] not in GOALS]
    assert all(name.startswith(("long-run/", "sweep ")) for name in unnamed)


# -- parts without Ray --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8, 60])
@pytest.mark.parametrize("method", sorted(assignment.DENSE))
def test_the_dense_forms_weigh_as_ours(method: str, count: int) -> None:
    scene = assignment.Scene.make(count, anchors=False, size=(160, 160))
    assignment.check_equal(method, scene)
    assigned = assignment.assign_whole(assignment.build_assigner({"type": method}), scene)[1]
    assert float(assigned.pos_weight.sum()) > 0


def test_a_wrong_dense_form_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*scene: Any) -> dict[str, torch.Tensor]:
        return {key: value + 0.01 for key, value in dense.dw(*scene).items()}

    monkeypatch.setitem(assignment.DENSE, "DW", wrong)
    with pytest.raises(AssertionError, match="DW: .* differ"):
        assignment.check_equal("DW", assignment.Scene.make(8, anchors=False, size=(160, 160)))


@pytest.mark.parametrize("count", [1, 8, 60])
def test_the_dense_matching_finds_our_candidates(count: int) -> None:
    scene = assignment.Scene.make(count, anchors=True, size=(160, 160))
    ours = assignment.PAAAssigner().candidates(scene.priors, scene.gts)
    peer = dense.paa(scene.predictions, scene.priors, scene.gts)
    assert len(ours) > count
    assert assignment.same_candidates(ours, peer)


def test_another_dense_matching_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = dense.paa

    def wrong(*scene: Any) -> Any:
        found = find(*scene)
        return replace(found, gt=(found.gt + 1) % 8)

    monkeypatch.setattr(dense, "paa", wrong)
    with pytest.raises(AssertionError, match="PAA, 8 GTs: .* other candidates"):
        assignment.paa_against_dense((8,), rounds=1)


def test_dense_overlaps_are_those_of_pairs() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 10, 12, 12], [3, 3, 3, 3]])
    gts = torch.tensor([[2.0, 0, 6, 4], [0, 0, 4, 4]])
    iou, union = dense.overlaps(boxes, gts)
    giou = dense.generalised(iou, union, boxes, gts)
    torch.testing.assert_close(iou, pairwise_iou(boxes, gts))
    torch.testing.assert_close(giou, pairwise_giou(boxes, gts))


@pytest.mark.filterwarnings("ignore")  # of mmdet and of scikit-learn's fits
def test_assignment_is_compared_with_mmdet(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = assignment.paa_against_mmdet((8,), rounds=1)
    assert line.name == "assign/PAA/8-gts" and line.goal == 10.0
    assert line.note == "0 of 22400 labels differ"
    reassign = assignment.mmdet_reassign

    def shifted(*scene: Any) -> Any:
        return lambda: tuple(part.roll(1) for part in reassign(*scene)()[:1])

    monkeypatch.setattr(assignment, "mmdet_reassign", shifted)
    with pytest.raises(AssertionError, match="labels differ from mmdet's"):
        assignment.paa_against_mmdet((8,), rounds=1)


@pytest.mark.filterwarnings("ignore")
def test_the_peer_with_a_loop_assigns_as_ours() -> None:
    from benchmarks.peers import LoopMixturePAA

    priors = assignment.make_priors((160, 160), images=2, anchors=True)
    gts = assignment.make_gts(4, images=2, size=(160, 160))
    predictions = assignment.make_predictions(priors, anchors=True)
    labels = [
        assignment.assign_whole(assigner, assignment.Scene(priors, gts, predictions))[1].labels
        for assigner in (assignment.PAAAssigner(), LoopMixturePAA())
    ]
    assert (labels[0] < assignment.CLASSES).any()
    assert torch.equal(*labels)


def test_memory_and_growth_give_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "MEMORY_GTS", 10)
    line = assignment._memory("DW", dense.dw)
    assert line.goal == 5.0 and line.ratio == line.peer / line.ours > 1
    scenes = [assignment.Scene.make(n, anchors=True, size=(160, 160)) for n in (4, 16)]
    line = assignment._growth("PAA", "gts", *scenes, rounds=1)
    assert line.goal == assignment.LINEAR and line.low == line.ratio == line.high


def test_evaluation_compares_equal_numbers(tmp_path: Path) -> None:
    files = evaluation.make_results(tmp_path, 4)
    line = evaluation._against("pycocotools", 4, 1, *files)
    assert "4 images, 400 detections" in line.note
    annotations, results, found, names = files
    others = replace(found, score=1 - found.score)
    with pytest.raises(AssertionError, match="pycocotools says"):
        evaluation._against("pycocotools", 4, 1, annotations, results, others, names)


def test_memory_of_processes_and_its_growth() -> None:
    own = os.getpid()
    assert own in long_run._descendants(os.getppid())
    resident = long_run._resident(own)
    assert resident is not None and resident > 50  # torch alone has more
    assert long_run._program(own) is None
    marks = long_run.Marks(early=200, late=2000, evaluate_every=100)
    line = long_run._growth("feeder 0", [{"feeder 0": 100.0}], [{"feeder 0": 104.0}], marks)
    assert line.name == "long-run/feeder-0" and line.reached is False


def test_scale_judges_ranks_and_growth() -> None:
    def timing(added: float, driver: float) -> scale.Timing:
        return scale.Timing(seconds=[sum(scale.PHASES) + added], driver_s=driver, busy=0.1)

    timings = {1: timing(0.005, 0.01), 8: timing(0.005, 0.02), 16: timing(0.004, 0.02)}
    timings[32] = timing(0.01, 0.04)
    lines = {line.name: line for line in scale._results(timings)}
    assert lines["scale/32-ranks"].goal == 0.05 and lines["scale/32-ranks"].reached
    assert lines["scale/growth/added"].ratio == pytest.approx(0.5)
    assert lines["scale/growth/controller"].ratio == pytest.approx(0.5)
    steps = "1 to 8 0.00, 8 to 16 -0.32, 16 to 32 1.32"
    assert lines["scale/growth/added"].note.endswith(
        f"between 8 and 32 ranks: 1 is linear; {steps}"
    )
    assert lines["scale/growth/controller"].note.endswith("8 to 16 0.00, 16 to 32 1.00")


def test_the_long_run_is_launched_from_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_run, "measure", process_as_line)
    (line,) = long_run.run(quick=True)
    assert line.note == "True" and line.ours != os.getpid()


def process_as_line(quick: bool) -> list[Result]:
    return [result(ours=float(os.getpid()), note=str(quick))]


def test_iterations_are_timed_in_blocks_in_turns() -> None:
    order: list[str] = []

    def runner(name: str, seconds: float) -> Any:
        def run(count: int) -> list[float]:
            order.append(name)
            return [seconds] * count

        return run

    names = ("colad", "apart", "in-process", "in-process, our fit", "lad")
    names += ("mmdet LAD", "mmdet LAD, our fit", "student alone")
    runners = {name: runner(name, 0.1 * (i + 1)) for i, name in enumerate(names)}
    medians = iteration.in_turns(runners, 2 * iteration.BLOCK)
    assert order == 2 * list(names)
    assert all(len(values) == 2 for values in medians.values())
    medians["apart, mean"] = [0.125, 0.125]
    notes = {"apart": "cores", "apart, mean": "parts"}
    lines = {line.name: line for line in iteration._results(medians, 32.0, notes)}
    assert lines["iteration/colad-over-apart"].ratio == pytest.approx(0.5)
    assert lines["iteration/colad-over-apart-mean"].ratio == pytest.approx(0.8)
    assert lines["iteration/colad-vs-in-process"].ratio == pytest.approx(3.0)
    goals = {name: line.goal for name, line in lines.items() if line.goal is not None}
    assert sorted(goals.values()) == [1.03, 1.2, 1.6]


def test_what_is_added_has_its_parts() -> None:
    def use(networks: float, wall: float) -> CoreUse:
        found = CoreUse(lambda count: [])
        found.used, found.wall_ms, found.iterations = {"networks": networks}, wall, 2
        return found

    blocks = [[[0.10, 0.10], [0.12, 0.12]]]  # 110 ms in the mean, 94 of them at work
    parts = iteration.added_parts(use(400.0, 240.0), use(376.0, 240.0), blocks)
    assert "of +10.0 ms (means) +6.0 are work of each network" in parts
    assert parts.endswith("and +4.0 waiting")


def test_the_slower_of_loops_at_once_counts() -> None:
    from benchmarks.loops import Together

    class Steady:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def run(self, iterations: int) -> list[float]:
            return [self.seconds] * iterations

    loops: Any = [Steady(0.1), Steady(0.2)]
    together = Together(loops)
    assert together.run(2) == [0.2, 0.2]
    assert together.blocks == [[[0.1, 0.1], [0.2, 0.2]]]


def test_core_use_counts_the_calls_processor_time() -> None:
    def work(iterations: int) -> list[float]:
        start, used = time.perf_counter(), time.process_time()
        while time.process_time() < used + 0.2:
            pass
        return [(time.perf_counter() - start) / iterations] * iterations

    use = CoreUse(work)
    assert len(use(4)) == 4
    assert 0.9 * 200 <= use.used["rest"]  # this process is neither a network nor a feeder
    assert str(use).startswith("networks ") and " ms of a core, cores " in str(use)


def test_readers_of_one_feed_get_the_same_batches_once() -> None:
    from benchmarks.loops import Feed
    from orchestrator.calls import Calls

    class Batch:
        def on(self, node: str) -> Batch:
            return self

    class Feeder:
        asked: list[int] = []

        def batches(self, position: int) -> list[Batch]:
            self.asked.append(position)
            return [Batch()]

    feed = Feed.__new__(Feed)  # without its actor
    feed.share(Feeder(), Calls(), readers=2)
    first = [feed.batches(position)[0] for position in range(3)]
    second = [feed.batches(position)[0] for position in range(3)]
    assert first == second and Feeder.asked == [0, 1, 2]
    assert not feed._kept


def small_data(folder: Path) -> tuple[Any, PreparedData]:
    config = load_config(CONFIG, [*SMALL, f"data.root={folder / 'shapes'}"])
    return config, prepare_data(config.data, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_peers_of_the_iteration_train(tmp_path: Path) -> None:
    from benchmarks.peers import InProcessCoLAD, LoopMixturePAA, MMDetLAD, make_batches
    from orchestrator.building import resolve_model

    config, data = small_data(tmp_path)
    batches = make_batches(config, data)[:2]
    colad = InProcessCoLAD(config, data, batches, loop_fit=True)
    assigners = [type(network.network.assigner) for network in colad.networks]
    assert assigners == [LoopMixturePAA, LoopMixturePAA]
    assert len(colad.run(2)) == 2
    frozen = replace(config.networks["r34"], learner=False, checkpoint="not read here")
    lad = replace(config, networks={"r18": config.networks["r18"], "r34": frozen})
    student, teacher = (resolve_model(n, lad.networks[n], 4) for n in ("r18", "r34"))
    loop, batched = (
        MMDetLAD(lad, student, teacher, batches, loop_fit=loop_fit) for loop_fit in (True, False)
    )
    batched.detector.teacher_model.load_state_dict(loop.detector.teacher_model.state_dict())
    found, ours = (labels_of(peer) for peer in (loop, batched))
    assert ours[-1] == int((ours[0] < 4).sum()) > 0
    assert torch.equal(found[0], ours[0])
    for theirs, mine in zip(found[4:], ours[4:]):  # positives, their anchors and number
        assert torch.equal(torch.as_tensor(theirs), torch.as_tensor(mine))
    assert len(loop.run(2)) == len(batched.run(2)) == 2


@torch.no_grad()
def labels_of(peer: Any) -> tuple[Any, ...]:
    """What the teacher of mmdet's detector says of the first batch."""
    images, samples = peer.inputs[0]
    head = peer.detector.teacher_model.bbox_head
    outs = head(peer.detector.extract_teacher_feat(images))
    gts, metas = zip(*((sample.gt_instances, sample.metainfo) for sample in samples))
    found: tuple[Any, ...] = head.get_label_assignment(*outs, list(gts), list(metas))
    return found
