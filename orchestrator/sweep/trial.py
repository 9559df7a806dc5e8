"""One trial: the Tune function of a sweep, around the same run as ``colad train``."""

from __future__ import annotations

import logging
import shutil
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune

from orchestrator.checkpoints import CheckpointState, find_checkpoints, write_checkpoint
from orchestrator.controller import FAREWELL_S, run_trial
from orchestrator.errors import CoTrainError, NetworkLostError
from orchestrator.live_view import Progress
from orchestrator.monitor import create_monitor
from orchestrator.runlog import read_log
from orchestrator.sweep.status import FAILED, FINISHED, TrialStatus, read_status, write_status
from orchestrator.trainer import Outcome

METRICS = ("AP", "AP50", "AP75")


class TrialFailed(RuntimeError):
    """A trial that has failed for good; Tune's further tries end here at once."""


def sweep_trial(params: Mapping[str, Any]) -> None:
    """The Tune trainable of a sweep.

    A trial that has ended, here or in an earlier launch, only repeats its last figures.

    Args:
        params: ``run_dir``, which holds ``config.py`` and ``data.json``; ``network``, whose AP the
            scheduler looks at; ``keep``, how many checkpoints stay.

    Raises:
        NetworkLostError: an actor was lost; Tune starts the trial again from its checkpoint.
        TrialFailed: any other error, written down as the trial's status.
    """
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    run_dir, network = Path(params["run_dir"]), params["network"]
    status = read_status(run_dir)
    if status is not None and status.outcome == FAILED:
        raise TrialFailed(status.reason)
    if status is not None:
        _repeat(run_dir, network)
        return
    started = time.monotonic()
    board = create_monitor(str(run_dir))

    def save(parts: Mapping[str, bytes], state: CheckpointState) -> None:
        folder = run_dir / "checkpoints"
        write_checkpoint(folder / f"iteration_{state.iteration:09d}", parts, state)
        _prune(folder, params["keep"])

    def evaluated(progress: Progress) -> None:
        if progress.iteration == progress.max_iterations:  # a scheduler may stop it at the report
            _end(run_dir, started)
        tune.report(_report(progress.iteration, progress.evaluations[network]))

    reason = ""
    try:
        outcome = run_trial(run_dir, board, save_checkpoint=save, evaluated=evaluated)
        if outcome is Outcome.STOPPED:
            _await_end(board)
    except NetworkLostError:
        raise
    except CoTrainError as error:
        reason = f"{type(error).__name__}: {error}"
    except Exception:
        reason = traceback.format_exc()
    finally:
        ray.kill(board)
    _end(run_dir, started, reason)
    if reason:
        raise TrialFailed(reason)


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


def _prune(folder: Path, keep: int) -> None:
    for old in find_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
