"""The run: iterations in order, evaluations, checkpoints, logs. Knows nothing of Ray.

What differs between a run in this process and one in actors is handed in: networks, feed, and
``resolve``, which turns handles into values.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from assigners.types import Step
from orchestrator.checkpoints import CheckpointState, read_part, read_state, verify
from orchestrator.config import RunConfig
from orchestrator.datasets import PreparedData
from orchestrator.errors import CheckpointError
from orchestrator.evaluation import (
    Detections,
    EvalResult,
    check_backend,
    evaluate_detections,
)
from orchestrator.feed import BatchOrder
from orchestrator.grid import GridDescription, check_compatible
from orchestrator.iteration import CoTrainNetwork, Handle, IterationRecord, cotrain_iteration
from orchestrator.live_view import Progress
from orchestrator.runlog import RunLog, write_detections
from orchestrator.step import StepResult

logger = logging.getLogger(__name__)

RECENT = 50
"""Iterations that the live numbers (speed, who taught) look back on."""
SAMPLES = 40
"""Sampled cost tables of a run whose ``log.assignments_interval`` is None."""


class Outcome(Enum):
    """How ``CoTrainer.run`` ended."""

    FINISHED = "finished"
    """All iterations are done."""
    STOPPED = "stopped"
    """Asked to stop; a checkpoint was written and the run can be resumed."""


class TrainerNetwork(CoTrainNetwork, Protocol):
    """A network as the run needs it: the step, and what is done between steps."""

    num_ranks: int

    def describe(self) -> list[Handle]:
        """``GridDescription`` of each rank."""
        ...

    def predict(self) -> list[Handle]:
        """``Detections`` of each rank's share of the validation images."""
        ...

    def save(self) -> list[Handle]:
        """Each rank's state as bytes."""
        ...

    def load(self, parts: Sequence[bytes]) -> list[Handle]:
        """Return to saved states, one per rank."""
        ...


class Feed(Protocol):
    """The stream of batches."""

    def batches(self, position: int) -> list[Handle]:
        """Batch ``position`` of each shard."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the run tells the outside."""

    resolve: Callable[[Sequence[Handle]], list[Any]]
    """Wait for handles and return their values; raises what the work behind them raised."""
    save_checkpoint: Callable[[Mapping[str, bytes], CheckpointState], None]
    """Make the parts and their state durable as one checkpoint."""
    report: Callable[[Progress], bool]
    """Publish progress; returns whether the run is asked to stop."""
    evaluated: Callable[[Progress], None] | None = None
    """Told after each evaluation of the learners."""
    warn: Callable[[str], None] = logger.warning
    """Told what went wrong without ending the run."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The length of a run, from its configuration and data."""

    max_iterations: int
    iterations_per_epoch: int
    evaluate_every: int | None
    checkpoint_every: int | None
    sample_every: int
    """Iterations between two sampled cost tables; 0 for none."""


def make_plan(config: RunConfig, order: BatchOrder) -> Plan:
    """Iterations of the run; epochs are counted in whole iterations."""
    per_epoch = -(-order.batches_per_epoch // config.train.accumulate)
    epochs, evaluation = config.train.max_epochs, config.evaluation
    iterations = config.train.max_iterations
    if iterations is None:
        assert epochs is not None
        iterations = epochs * per_epoch
    every = evaluation.interval
    if evaluation.interval_epochs is not None:
        every = evaluation.interval_epochs * per_epoch
    sample_every = config.log.assignments_interval
    return Plan(
        max_iterations=iterations,
        iterations_per_epoch=per_epoch,
        evaluate_every=every,
        checkpoint_every=config.checkpoint.interval or every,
        sample_every=max(iterations // SAMPLES, 1) if sample_every is None else sample_every,
    )


class CoTrainer:
    """Drives networks and feed through a run.

    Args:
        config: the run.
        data: its checked data.
        order: the images of each batch.
        networks: in the order of the configuration.
        feed: the stream of batches.
        run_log: where rows go.
        hooks: the outside.
    """

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        order: BatchOrder,
        networks: Sequence[TrainerNetwork],
        feed: Feed,
        run_log: RunLog,
        hooks: Hooks,
    ) -> None:
        self.config, self.data, self.order = config, data, order
        self.networks, self.feed, self.run_log, self.hooks = networks, feed, run_log, hooks
        self.plan = make_plan(config, order)
        self.iteration = 0
        """Optimizer steps collected."""
        self.evaluations: dict[str, dict[str, float]] = {}
        """Last metrics of each network."""
        self._recent: deque[tuple[float, dict[str, float]]] = deque(maxlen=RECENT)
        self._last: dict[str, dict[str, Any]] = {}
        self._stop = False
        self._collected_s = 0.0
        self._saved_s = time.monotonic()

    # -- before the first iteration -------------------------------------------------------------

    def check(self) -> None:
        """Compare the networks' prior grids, and ask for the evaluation's backend.

        Raises:
            ModelError: two networks cannot be compared.
            ConfigError: the backend is not installed where this trainer runs.
        """
        check_backend(self.config.evaluation.backend)
        grids: dict[str, GridDescription] = {}
        for network in self.networks:
            grids[network.name] = self.hooks.resolve(network.describe())[0]
        check_compatible(grids)

    def restore(self, directory: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: damaged, or of another configuration.
        """
        verify(directory)
        state = read_state(directory)
        if state.config_digest != self.config.digest():
            raise CheckpointError(
                f"{directory}: made by another configuration ({state.config_digest}, this run is "
                f"{self.config.digest()}); use another --work-dir"
            )
        for network in self.networks:
            names = [part_name(network.name, rank) for rank in range(network.num_ranks)]
            parts = [read_part(directory, name) for name in names]
            try:
                self.hooks.resolve(network.load(parts))
            except CheckpointError as error:  # which knows bytes, not where they came from
                raise CheckpointError(f"{directory}, network {network.name!r}: {error}") from error
        self.iteration = state.iteration
        self.evaluations = {k: dict(v) for k, v in state.extra.get("evaluations", {}).items()}
        self.run_log.truncate(self.iteration)

    # -- the run --------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Iterate to the end, or until asked to stop."""
        pending: deque[list[IterationRecord]] = deque()
        issued = self.iteration
        self._collected_s = time.perf_counter()
        if self.iteration == 0 and self.config.evaluation.frozen:
            self._evaluate([n for n in self.networks if not n.learner])
        if self.iteration > 0 and self._evaluation_due():  # its checkpoint came before it
            self._evaluate_learners()
        while self.iteration < self.plan.max_iterations and not self._stop:
            while issued < self._horizon() and len(pending) < self._room(len(pending)):
                pending.append(self._issue(issued))
                issued += 1
            self._collect(pending.popleft())
            self._between(drained=not pending)
        return self._end(pending)

    def _horizon(self) -> int:
        """Iterations that may be issued before the next evaluation or checkpoint."""
        marks = [self.plan.max_iterations]
        for every in (self.plan.evaluate_every, self.plan.checkpoint_every):
            if every is not None:
                marks.append((self.iteration // every + 1) * every)
        return min(marks)

    def _room(self, pending: int) -> int:
        """Iterations that may be in flight: before a checkpoint by the clock, no more."""
        return pending if pending and self._overdue() else self.config.lookahead

    def _overdue(self) -> bool:
        minutes = self.config.checkpoint.interval_minutes
        return minutes is not None and time.monotonic() - self._saved_s >= 60 * minutes

    def _issue(self, iteration: int) -> list[IterationRecord]:
        """Issue the micro-batches of one iteration."""
        accumulate = self.config.train.accumulate
        every = self.plan.sample_every
        records = []
        for micro in range(accumulate):
            position = iteration * accumulate + micro
            step = Step(
                iteration=iteration,
                max_iterations=self.plan.max_iterations,
                epoch=self.order.epoch_of(position),
                micro_batch=micro,
                accumulate=accumulate,
            )
            batches = self.feed.batches(position)
            sample = every > 0 and iteration % every == 0 and micro == 0
            records.append(cotrain_iteration(batches, self.networks, step, want_sample=sample))
        return records

    def _collect(self, records: list[IterationRecord]) -> None:
        """Wait for an iteration and log it."""
        for record in records:
            for name, handles in record.handles.items():
                record.results[name] = self.hooks.resolve(handles)
        now = time.perf_counter()
        seconds, self._collected_s = now - self._collected_s, now
        step = records[0].step
        taught: dict[str, float] = {}
        for learner in records[0].results:
            results = [result for record in records for result in record.results[learner]]
            row = summarise(results)
            taught = {k[7:]: v for k, v in row.items() if k.startswith("taught_")}
            base = dict(iteration=step.iteration, epoch=step.epoch, network=learner)
            self.run_log.log_iteration({**base, "seconds": seconds, **row})
            losses = {k[5:]: v for k, v in row.items() if k.startswith("loss_")}
            self._last[learner] = dict(losses=losses, lr=row["lr"])
            if results[0].sample is not None:
                self._log_sample(step.iteration, learner, results[0].sample)
        self._recent.append((seconds, taught))
        self.iteration = step.iteration + 1

    def _log_sample(self, iteration: int, learner: str, sample: Mapping[str, np.ndarray]) -> None:
        rows = len(sample["gt"])
        columns = dict(iteration=np.full(rows, iteration), learner=np.full(rows, learner), **sample)
        self.run_log.log_assignments(columns)

    def _between(self, *, drained: bool) -> None:
        """What happens after an iteration: publish, evaluate, write a checkpoint."""
        done, plan, every = self.iteration, self.plan, self.config.log.flush_interval
        self._stop = self.hooks.report(self.progress())
        if done % every == 0:
            self._write(lambda: self.run_log.flush(done))
        if not drained or self._stop:
            return  # a stop saves in `_end`; an evaluation that was due is made up for on resume
        ended = done == plan.max_iterations
        if ended or _due(done, plan.checkpoint_every) or self._overdue():
            self._write(self.checkpoint, required=ended)
            self._saved_s = time.monotonic()
        if self._evaluation_due():
            self._evaluate_learners()

    def _write(self, write: Callable[[], None], *, required: bool = False) -> None:
        """Write to the run directory; a failure is a warning where that is configured.

        Raises:
            CheckpointError: it fails and the run shall stop, or ends with it.
        """
        try:
            write()
        except CheckpointError as error:
            if required or self.config.checkpoint.on_error == "stop":
                raise
            self.hooks.warn(f"{error}; training on (checkpoint.on_error='warn')")

    def _evaluation_due(self) -> bool:
        done = self.iteration
        return done == self.plan.max_iterations or _due(done, self.plan.evaluate_every)

    def _evaluate_learners(self) -> None:
        self._evaluate([network for network in self.networks if network.learner])
        if self.hooks.evaluated is not None:
            self.hooks.evaluated(self.progress())

    def _end(self, pending: deque[list[IterationRecord]]) -> Outcome:
        if self.iteration == self.plan.max_iterations and not self._stop:
            self.run_log.flush()
            return Outcome.FINISHED
        while pending:  # asked to stop: what was issued is finished, then saved
            self._collect(pending.popleft())
        self.checkpoint()
        return Outcome.STOPPED

    def _evaluate(self, networks: Sequence[TrainerNetwork]) -> None:
        """COCO metrics of ``networks``; all predict at once."""
        self.hooks.report(self.progress(status="evaluating"))
        started = time.perf_counter()
        handles = {network.name: network.predict() for network in networks}
        for name, parts in handles.items():
            detections = Detections.concatenate(self.hooks.resolve(parts))
            result = evaluate_detections(
                detections,
                Path(self.data.val.annotations),
                self.data.classes,
                backend=self.config.evaluation.backend,
            )
            seconds = time.perf_counter() - started
            self._log_evaluation(name, result, seconds)
            write_detections(self.run_log.run_dir, name, detections, self.iteration)
        self.hooks.report(self.progress())
        self._collected_s = time.perf_counter()

    def _log_evaluation(self, name: str, result: EvalResult, seconds: float) -> None:
        done = self.iteration
        base = dict(
            iteration=done,
            epoch=self.order.epoch_of(max(done - 1, 0) * self.config.train.accumulate),
            network=name,
            split="val",
        )
        per_class = {f"AP/{cls}": ap for cls, (ap, _) in result.per_class.items()}
        metrics = dict(result.metrics)
        self.run_log.log_evaluation([{**base, **metrics, **per_class, "seconds": seconds}])
        self.evaluations[name] = {**metrics, **per_class, "iteration": done}

    def checkpoint(self) -> None:
        """Save all networks at this moment, with the run log up to it."""
        self.hooks.report(self.progress(status="saving"))
        self.run_log.flush(self.iteration)
        handles = {network.name: network.save() for network in self.networks}
        parts = {
            part_name(name, rank): data
            for name, ranks in handles.items()
            for rank, data in enumerate(self.hooks.resolve(ranks))
        }
        state = CheckpointState(
            iteration=self.iteration,
            config_digest=self.config.digest(),
            networks=tuple(handles),
            extra=dict(evaluations=self.evaluations),
        )
        self.hooks.save_checkpoint(parts, state)
        self._collected_s = time.perf_counter()

    def progress(self, status: str = "training") -> Progress:
        """The run at this moment, for the live view."""
        seconds = [s for s, _ in self._recent]
        pace = statistics.median(seconds) if seconds else 0.0
        teachers = sorted({name for _, taught in self._recent for name in taught})
        shares = {
            name: statistics.fmean(taught.get(name, 0.0) for _, taught in self._recent)
            for name in teachers
        }
        train = self.config.train
        images = train.batch_size * train.accumulate
        return Progress(
            status=status,
            iteration=self.iteration,
            max_iterations=self.plan.max_iterations,
            epoch=self.order.epoch_of(max(self.iteration - 1, 0) * train.accumulate),
            seconds_per_iteration=pace,
            images_per_second=images / pace if pace else 0.0,
            eta_s=pace * (self.plan.max_iterations - self.iteration),
            networks=dict(self._last),
            taught=shares,
            evaluations={name: dict(values) for name, values in self.evaluations.items()},
        )


def _due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


def part_name(network: str, rank: int) -> str:
    """File of one rank's state inside a checkpoint."""
    return f"{network}-rank{rank}.pt"


def summarise(results: Sequence[StepResult]) -> dict[str, Any]:
    """One log row of a learner from its ranks and micro-batches.

    Losses, shares and seconds are means (losses are normalised by rank means already); counts are
    sums.
    """
    row: dict[str, Any] = {}
    for group, prefix in (("losses", ""), ("taught", "taught_"), ("seconds", "seconds_")):
        for key in getattr(results[0], group):
            values = [getattr(result, group).get(key, 0.0) for result in results]
            row[f"{prefix}{key}"] = statistics.fmean(values)
    row["loss_total"] = sum(row[key] for key in results[0].losses)
    for key in results[0].stats:
        values = [result.stats.get(key, 0.0) for result in results]
        row[key] = statistics.fmean(values) if key.startswith("indicator_") else sum(values)
    for count in ("num_pos", "num_gts", "num_images", "payload_bytes"):
        row[count] = sum(getattr(result, count) for result in results)
    row["skipped"] = any(result.skipped for result in results)
    row["lr"] = results[0].lr
    return row
