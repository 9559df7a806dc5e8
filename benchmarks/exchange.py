"""The exchange: bytes and milliseconds between two networks' costs and what each reads of them.

Two actors hold one network's ready costs each (the assigners' own, from random predictions) and do
with them what a co-training step does: digest, pack, send, check, unpack. Both do so at once, and
the time from "both have their costs" to "the slower one has read the other's" is what the exchange
adds to an iteration's critical path. The same round without tables is taken off: a call in an actor
costs something even if nothing is exchanged. Nothing here needs a forward pass, so that COCO's size
(16 images of 800 x 1344, 7 GTs each) fits a small machine.

The decision who teaches comes after that: one line per method ends with it, another has it by
Fisher's ratio. Both networks decide at once.

Soft labels have lines of their own: their round trip, and what is left of it on the path of a
student whose frozen teacher runs ahead.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.harness import Result
from orchestrator.quiet import quiet_environment

GOAL_MS = 7.0
METHODS = ("PAA", "DW", "AutoAssign", "ALA", "MuSu")
NAMES = ("a", "b")
BATCH = "0.0.0"
FISHER_ROUNDS = 5
"""Few: no goal depends on them."""
ADDED = "ms (ratio: ms added, median of the rounds')"


@dataclass(frozen=True)
class Size:
    """A batch: its images and how many GTs each has."""

    name: str
    image: tuple[int, int]
    images: int
    gts: int
    iteration_ms: float
    """What shares are of: CoLAD's of ``benchmarks/iteration.py``, and a GPU's at COCO's size."""
    goal: float | None


SIZES = (
    Size("tiny", (160, 160), 8, 4, 110.0, None),
    Size("coco", (800, 1344), 16, 7, 350.0, GOAL_MS),
)


class Side:
    """One network with its costs ready."""

    def __init__(self, name: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.name = name
        self.device = torch.device("cpu")

    def prepare(self, method: str, size: Size) -> int:
        """Compute candidates and costs; returns the number of candidates."""
        import torch

        from assigners import build_assigner
        from benchmarks.scenes import make_gts, make_predictions, make_priors

        anchors = method == "PAA"
        self.gts = make_gts(size.gts, size.images, size=size.image)
        self.priors = make_priors(size.image, size.images, anchors=anchors)
        seed = NAMES.index(self.name)
        self.predictions = make_predictions(self.priors, anchors=anchors, seed=seed)
        assigner = build_assigner({"type": method})
        with torch.no_grad():
            self.candidates = assigner.candidates(self.priors, self.gts)
            self.table = assigner.costs(self.predictions, self.candidates, self.gts)
        self.scope = assigner.default_scope
        return len(self.candidates)

    def begin(self, send: bool, soft: bool, work_s: float) -> Any:
        """What ``Network.begin_step`` does once the costs are there, after ``work_s`` of them."""
        from orchestrator import exchange

        time.sleep(work_s)
        self.ready = time.perf_counter()
        if not send:
            return None
        self.digest = exchange.candidates_digest(self.candidates)
        return exchange.pack(
            self.table,
            network=self.name,
            batch_id=BATCH,
            digest=self.digest,
            soft=self.predictions if soft else None,
        )

    def finish(self, work_s: float, criterion: str, *tables: Any) -> dict[str, float]:
        """What ``Network.finish_step`` does before it assigns.

        Returns:
            ``ready``, ``read`` and ``decided``: when the own costs were there, the others' were
            read and the teachers were chosen; ``bytes`` read.
        """
        from orchestrator import exchange
        from orchestrator.switching import SwitchRule, choose

        costs, payload = {self.name: self.table.detach()}, 0
        for packed in tables:
            exchange.check(
                packed, reader=self.name, batch_id=BATCH, digest=self.digest, image_ids=[0]
            )
            costs[packed.network] = exchange.unpack(packed, self.device)
            if packed.soft is not None:
                images = range(self.gts.num_images)
                exchange.unpack_soft(packed.soft, images, self.device)
            payload += packed.payload_bytes
        read = time.perf_counter()
        if tables:
            choose(
                {name: costs[name] for name in NAMES},
                self.candidates,
                rule=SwitchRule(criterion=criterion, scope=self.scope, teacher=None),
                num_gts=self.gts.num_gts,
                num_images=self.gts.num_images,
                num_levels=len(self.priors.level_sizes),
            )
        decided = time.perf_counter()
        time.sleep(work_s)
        return dict(ready=self.ready, read=read, decided=decided, bytes=float(payload))


@dataclass(frozen=True)
class Round:
    """One exchange between both networks; milliseconds of the slower one."""

    path: float
    """From "both have their costs" to "the others' are read"."""
    decided: float
    """From the same to the decision."""
    decision: float
    """Of the decision alone."""
    bytes: float
    """What one network reads."""


def _round(sides: dict[str, Any], send: bool, soft: bool, criterion: str) -> Round:
    import ray

    tables = {name: side.begin.remote(send, soft, 0.02) for name, side in sides.items()}
    others = {name: [t for other, t in tables.items() if other != name] for name in sides}
    ends = ray.get(
        [
            side.finish.remote(0.0, criterion, *(others[name] if send else ()))
            for name, side in sides.items()
        ]
    )
    ready = max(end["ready"] for end in ends)
    return Round(
        path=1e3 * (max(end["read"] for end in ends) - ready),
        decided=1e3 * (max(end["decided"] for end in ends) - ready),
        decision=1e3 * max(end["decided"] - end["read"] for end in ends),
        bytes=max(end["bytes"] for end in ends),
    )


@dataclass(frozen=True)
class Rounds:
    """Exchanges in turns with the same calls without tables."""

    sent: list[Round]
    idle: list[Round]

    @classmethod
    def take(
        cls, sides: dict[str, Any], count: int, *, soft: bool = False, criterion: str = "std_mean"
    ) -> Rounds:
        """``count`` of each after two of warm-up."""
        kinds = ((True, soft, criterion), (False, False, criterion))
        rounds = [[_round(sides, *kind) for kind in kinds] for _ in range(count + 2)]
        sent, idle = (list(kind) for kind in zip(*rounds[2:]))
        return cls(sent, idle)

    @property
    def decision(self) -> float:
        """Milliseconds of the decision, median."""
        return statistics.median(end.decision for end in self.sent)


def _method(sides: dict[str, Any], method: str, size: Size, rounds: int) -> list[Result]:
    import ray

    rows = ray.get([side.prepare.remote(method, size) for side in sides.values()])[0]
    name, costs = f"{size.name}/{method}", Rounds.take(sides, rounds)
    fisher = Rounds.take(sides, min(rounds, FISHER_ROUNDS), criterion="fisher")
    decided = _added(f"exchange/with-decision/{name}", costs, decided=True)
    lines = [
        _exchange(f"exchange/{name}", costs, size, rows, size.goal),
        replace(decided, note="to the decision by std_mean"),
        _fisher(f"exchange/decision-fisher/{name}", fisher, costs),
    ]
    if method == "PAA":
        soft = Rounds.take(sides, rounds, soft=True)
        lines.append(_exchange(f"exchange/soft-labels/{name}", soft, size, rows, None))
    return lines


def _exchange(name: str, taken: Rounds, size: Size, rows: int, goal: float | None) -> Result:
    """What the exchange adds up to "the others' costs are read"."""
    line = _added(name, taken)
    return replace(
        line,
        goal=goal,
        note=f"{rows} pairs, {taken.sent[0].bytes / 1e6:.2f} MB per network and iteration, "
        f"{line.ratio / size.iteration_ms:.1%} of {size.iteration_ms:g} ms; "
        f"the decision takes {taken.decision:.1f} ms",
    )


def _fisher(name: str, taken: Rounds, costs: Rounds) -> Result:
    """The decision by Fisher's ratio and, as peer, the one by std_mean."""
    decisions = [end.decision for end in taken.sent]
    added = _added(name, taken, decided=True).ratio
    return Result(
        name=name,
        ours=taken.decision,
        peer=costs.decision,
        ratio=taken.decision,
        goal=None,
        better="lower",
        unit="ms (ratio: ours)",
        low=min(decisions),
        high=max(decisions),
        note=f"peer: the decision by std_mean; exchange and decision by fisher add {added:.1f} ms",
    )


def _added(name: str, taken: Rounds, decided: bool = False) -> Result:
    """Milliseconds beyond the calls without tables, to "read" or to the decision."""
    ours = [end.decided if decided else end.path for end in taken.sent]
    idle = [end.path for end in taken.idle]
    added = [mine - alone for mine, alone in zip(ours, idle)]
    return Result(
        name=name,
        ours=statistics.median(ours),
        peer=statistics.median(idle),
        ratio=statistics.median(added),
        goal=None,
        better="lower",
        unit=ADDED,
        low=min(added),
        high=max(added),
    )


def _hidden(sides: dict[str, Any], size: Size, iterations: int) -> Result:
    """Iterations of a student behind a frozen teacher, with soft labels and with costs alone.

    Teacher and student sleep where they would compute on a GPU: 120 and 350 ms.
    """
    import ray

    ray.get([side.prepare.remote("PAA", size) for side in sides.values()])
    teacher, student = sides["a"], sides["b"]

    def run(soft: bool) -> float:
        pending: list[Any] = []
        ends = []
        for _ in range(iterations + 1):
            table = teacher.begin.remote(True, soft, 0.12)
            student.begin.remote(True, False, 0.1)
            pending.append(student.finish.remote(0.25, "std_mean", table))
            if len(pending) == 2:
                ends.append(ray.get(pending.pop(0))["read"])
        ends.append(ray.get(pending.pop())["read"])
        return 1e3 * statistics.median(b - a for a, b in zip(ends[1:], ends[2:]))

    soft, hard = [], []
    for _ in range(3):
        hard.append(run(False))
        soft.append(run(True))
    added = [s - h for s, h in zip(soft, hard)]
    return Result(
        name=f"exchange/soft-labels/{size.name}/frozen-teacher",
        ours=statistics.median(soft),
        peer=statistics.median(hard),
        ratio=statistics.median(added),
        goal=None,
        better="lower",
        unit=ADDED,
        low=min(added),
        high=max(added),
        note="an iteration of a student, 350 ms of work, whose teacher runs ahead",
    )


def run(quick: bool) -> list[Result]:
    """All methods and sizes; ``quick``: fewer rounds, COCO's size only."""
    quiet_environment()
    import ray

    rounds = 7 if quick else 25
    results = []
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=2 * 2**30,
            _temp_dir=folder,
        )
        try:
            actor = ray.remote(Side).options(num_cpus=0)
            sides = {name: actor.remote(name, 1) for name in NAMES}
            for size in SIZES[1:] if quick else SIZES:
                for method in METHODS:
                    results += _method(sides, method, size, rounds)
            results.append(_hidden(sides, SIZES[-1], 4 if quick else 10))
        finally:
            ray.shutdown()
    return results
