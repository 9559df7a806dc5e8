"""One trial: the Tune function of a sweep, around the same run as ``colad train``."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune

from orchestrator.checkpoint_store import CheckpointStore, run_store
from orchestrator.config_file import load_config
from orchestrator.controller import FAREWELL_S, reason_of, run_trial
from orchestrator.errors import CoTrainError, NetworkLostError
from orchestrator.live_view import Progress
from orchestrator.monitor import create_monitor
from orchestrator.runlog import RunLog, read_log
from orchestrator.sweep.population import (
    OFFER_FILE,
    finish_begun,
    last_change,
    make_offer,
    read_offer,
    take_over,
)
from orchestrator.sweep.status import FAILED, FINISHED, TrialStatus, read_status, write_status
from orchestrator.trainer import Outcome

METRICS = ("AP", "AP50", "AP75")


class TrialFailed(RuntimeError):
    """A trial that has failed for good; Tune's further tries end here at once."""


def sweep_trial(params: Mapping[str, Any]) -> None:
    """The Tune trainable of a sweep.

    A trial that has ended, here or in an earlier launch, only repeats its last figures.

    Args:
        params: ``trials_dir``, in which the trial's directory holds ``config.py`` and
            ``data.json``; ``network``, whose AP the scheduler looks at; ``population``, whether the
            trials take over from each other; ``set``, the searched fields' values.

    Raises:
        NetworkLostError: an actor was lost; Tune starts the trial again from its checkpoint.
        TrialFailed: any other error, written down as the trial's status.
    """
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    # not from `params`: a population's trial has those of the one it goes on from
    run_dir = Path(params["trials_dir"]) / tune.get_context().get_trial_name()
    network = params["network"]
    status = read_status(run_dir)
    if status is not None and status.outcome == FAILED:
        raise TrialFailed(status.reason)
    if status is not None:
        _repeat(run_dir, network)
        return
    started = time.monotonic()
    population = _Population(run_dir, params["set"]) if params["population"] else None
    board = create_monitor(str(run_dir))

    store = trial_store(run_dir, population=population is not None)

    def evaluated(progress: Progress) -> None:
        if progress.iteration == progress.max_iterations:  # a scheduler may stop it at the report
            _end(run_dir, started)
        report = _report(progress.iteration, progress.evaluations[network])
        if population is None:
            tune.report(report)
        else:
            population.report(report)

    def ready(run_log: RunLog) -> None:
        learners = load_config(run_dir / "config.py").learners
        run_log.log_hyper_parameters({**params["set"], "seed": params["seed"]}, learners)
        if population is not None:
            population.ready(run_log)

    reason = ""
    try:
        if population is not None:
            population.change_over()
        outcome = run_trial(
            run_dir, board, save_checkpoint=store.save, evaluated=evaluated, ready=ready
        )
        if outcome is Outcome.STOPPED:
            _await_end(board)
    except CoTrainError as error:
        if error.retryable:
            raise
        reason = reason_of(error, run_dir)
    except Exception as error:
        reason = reason_of(error, run_dir)
    finally:
        ray.kill(board)
    _end(run_dir, started, reason)
    if reason:
        raise TrialFailed(reason)


def trial_store(run_dir: Path, *, population: bool) -> CheckpointStore:
    """Where a trial's checkpoints go. A population's trial keeps the newest only: what it evaluated
    before a change belongs to other weights."""
    config, folder = load_config(run_dir / "config.py"), run_dir / "checkpoints"
    if population:
        return CheckpointStore(folder, keep=config.checkpoint.keep)
    return run_store(run_dir, config, folder)


class _Population:
    """A trial's part in population-based training.

    Args:
        run_dir: of the trial.
        params: the values that Tune wants it to have.
    """

    def __init__(self, run_dir: Path, params: Mapping[str, Any]) -> None:
        self.run_dir, self.params = run_dir, params
        self._started_s = time.time()

    def change_over(self) -> None:
        """Take over from another trial if Tune says so, or if that was begun before.

        Raises:
            CheckpointError: there is nothing to take over.
        """
        finish_begun(self.run_dir)
        checkpoint = tune.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            offer = read_offer(Path(folder))
        if offer is not None and offer.trial != self.run_dir.name:
            take_over(self.run_dir, offer, self.params)

    def ready(self, run_log: RunLog) -> None:
        """Log the change once, with the seconds that it took."""
        change = last_change(self.run_dir)
        log = read_log(self.run_dir, "changes")
        if change is None or (len(log) and change.token in set(log["token"])):
            return
        own = read_offer(self.run_dir)
        stopped_s = self._started_s if own is None else own.reported_s
        run_log.log_change(
            dict(
                iteration=change.iteration,
                source=change.source,
                before=json.dumps(change.before),
                params=json.dumps(change.params),
                source_params=json.dumps(change.source_params),
                waiting_seconds=self._started_s - stopped_s,
                restart_seconds=time.time() - self._started_s,
                token=change.token,
            )
        )

    def report(self, metrics: dict[str, float]) -> None:
        """Tell Tune, with an offer of the newest checkpoint in place of a copy of it."""
        make_offer(self.run_dir, int(metrics["iterations"]))
        with tempfile.TemporaryDirectory(prefix="colad-offer-") as folder:
            shutil.copy2(self.run_dir / OFFER_FILE, folder)
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def _end(run_dir: Path, started: float, reason: str = "") -> None:
    seconds = time.monotonic() - started
    outcome = FAILED if reason else FINISHED
    write_status(run_dir, TrialStatus(outcome=outcome, reason=reason, seconds=seconds))


def _await_end(board: Any) -> None:
    """Tell the launcher that the checkpoint is written, and wait to be ended by it."""
    ray.get(board.conclude.remote("stopped"))
    time.sleep(FAREWELL_S)
    raise NetworkLostError("controller", "asked to stop, and no launcher ended the trial")


def _report(iteration: int, metrics: Mapping[str, float]) -> dict[str, float]:
    return {"iterations": iteration, **{name: metrics[name] for name in METRICS}}


def _repeat(run_dir: Path, network: str) -> None:
    log = read_log(run_dir, "evaluations")
    rows = log[log["network"] == network].to_dict("records") if len(log) else []
    for row in rows[-1:]:
        tune.report(_report(int(row["iteration"]), row))
