"""The launcher of a sweep: writes the plan down, hands the trials to Tune, shows how they end."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator.config import load_config, save_config
from orchestrator.datasets import prepare_data, save_prepared
from orchestrator.errors import ConfigError
from orchestrator.evaluation import check_backend
from orchestrator.launcher import (
    STOP_GRACE_S,
    check_shared_memory,
    connected,
    feed_store_bytes,
    fit_to_cluster,
    locked,
    making_run_dir,
    placement_factory,
)
from orchestrator.placement import plan_placement
from orchestrator.runlog import write_environment
from orchestrator.sweep.plan import SweepPlan
from orchestrator.sweep.status import (
    FAILED,
    FINISHED,
    STOPPED,
    TrialStatus,
    read_status,
    write_status,
)

logger = logging.getLogger(__name__)

SWEEP_FILE = "sweep.json"
SCHEDULERS = ("none", "asha", "median")
POLL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """How a sweep ended."""

    sweep_dir: Path
    outcomes: dict[str, str]
    """Trial to ``finished``, ``failed``, ``stopped`` (by the scheduler) or ``unfinished``."""
    interrupted: bool


def launch_sweep(
    plan: SweepPlan,
    sweep_dir: Path,
    *,
    resume: bool,
    address: str | None,
    scheduler: str,
    concurrency: int | None,
    say: Callable[[str], None],
) -> SweepResult:
    """Run the trials of a plan, as many at once as fit.

    Args:
        plan: the trials.
        sweep_dir: where everything goes; must be new unless ``resume``.
        resume: go on with the sweep there: trials that have ended stay as they are, the others go
            on from their newest checkpoints.
        address: of a Ray cluster; None uses RAY_ADDRESS, else starts a Ray of its own.
        scheduler: one of ``SCHEDULERS``; what ends trials early.
        concurrency: trials at once; None: as many as the cluster holds.
        say: told one line about every trial that ends.

    Raises:
        CoTrainError: before the first trial for everything that can be known then.
    """
    if scheduler not in SCHEDULERS:
        raise ConfigError(f"--scheduler {scheduler}: expected one of {', '.join(SCHEDULERS)}")
    if concurrency is not None and concurrency < 1:
        raise ConfigError(f"--concurrency {concurrency}: at least 1")
    for backend in {trial.config.evaluation.backend for trial in plan.trials}:
        check_backend(backend)
    sweep_dir = sweep_dir.resolve()
    _check_sweep_dir(plan, sweep_dir, resume=resume)
    with making_run_dir(sweep_dir, keep=resume), locked(sweep_dir):
        store = max(feed_store_bytes(trial.config, 80) for trial in plan.trials)
        check_shared_memory(store)
        with connected(address, store * (concurrency or 2)):
            _write_trials(plan, sweep_dir)
            watcher = _Watcher(sweep_dir, plan, say)
            tuner = _make_tuner(plan, sweep_dir, scheduler, concurrency, watcher)
            with watcher.running():
                tuner.fit()
    outcomes = {}
    for trial in plan.trials:
        status = read_status(trial_dir(sweep_dir, trial.id))
        outcomes[trial.id] = "unfinished" if status is None else status.outcome
    return SweepResult(sweep_dir=sweep_dir, outcomes=outcomes, interrupted=watcher.signalled)


def trial_dir(sweep_dir: Path, trial: str) -> Path:
    """Run directory of a trial."""
    return sweep_dir / "trials" / trial


def _check_sweep_dir(plan: SweepPlan, sweep_dir: Path, *, resume: bool) -> None:
    path = sweep_dir / SWEEP_FILE
    if not resume:
        if path.exists():
            raise ConfigError(
                f"{sweep_dir} holds a sweep: --resume goes on with it, or use another --work-dir"
            )
        return
    if not path.is_file():
        raise ConfigError(f"--resume: {sweep_dir} holds no sweep (no {SWEEP_FILE})")
    before = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(plan.to_dict()))
    if before != now:
        counts = f"{len(before['trials'])} trials of {before['space']}"
        raise ConfigError(
            f"--resume: {sweep_dir} was started as {counts} with other settings; repeat the same "
            "command with --resume, or use another --work-dir"
        )


def _write_trials(plan: SweepPlan, sweep_dir: Path) -> None:
    """Run directories with resolved configurations and checked data, then the plan itself."""
    prepared: dict[str, Any] = {}
    for trial in plan.trials:
        config = fit_to_cluster(trial.config)
        run_dir = trial_dir(sweep_dir, trial.id)
        run_dir.mkdir(parents=True, exist_ok=True)
        key = repr(config.data)
        if key not in prepared:
            prepared[key] = prepare_data(config.data, sweep_dir / "data")
        save_config(config, run_dir / "config.py")
        save_prepared(prepared[key], run_dir / "data.json")
    write_environment(sweep_dir)
    temporary = sweep_dir / f"{SWEEP_FILE}.tmp"
    temporary.write_text(json.dumps(plan.to_dict(), indent=1), encoding="utf-8")
    temporary.replace(sweep_dir / SWEEP_FILE)


def _make_tuner(
    plan: SweepPlan, sweep_dir: Path, scheduler: str, concurrency: int | None, watcher: _Watcher
) -> Any:
    from ray import tune

    from orchestrator.sweep.trial import sweep_trial

    def resources(params: dict[str, Any]) -> Any:
        return placement_factory(plan_placement(load_config(Path(params["run_dir"]) / "config.py")))

    params = [
        dict(
            run_dir=str(trial_dir(sweep_dir, trial.id)),
            network=trial.config.learners[0],
            keep=trial.config.checkpoint.keep,
        )
        for trial in plan.trials
    ]
    retries = max(trial.config.resources.max_retries for trial in plan.trials)
    launches = sweep_dir / "tune"
    return tune.Tuner(
        tune.with_resources(_flat(sweep_trial), lambda params: resources(params["trial"])),
        param_space={"trial": tune.grid_search(params)},
        tune_config=tune.TuneConfig(
            metric="AP",
            mode="max",
            scheduler=_scheduler(scheduler, plan),
            max_concurrent_trials=concurrency,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"launch-{sum(1 for _ in launches.glob('launch-*')) + 1}",
            storage_path=str(launches),
            failure_config=tune.FailureConfig(max_failures=retries),
            callbacks=[_make_callback(watcher)],
            verbose=0,
        ),
    )


def _flat(trainable: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(params: dict[str, Any]) -> None:
        trainable(params["trial"])

    run.__name__ = "sweep_trial"
    return run


def _trial_name(trial: Any) -> str:
    return Path(trial.config["trial"]["run_dir"]).name


def _scheduler(name: str, plan: SweepPlan) -> Any:
    from ray.tune import schedulers

    longest = max(trial.config.train.max_iterations or 0 for trial in plan.trials)
    first = [trial.config.evaluation.interval for trial in plan.trials]
    grace = min((interval for interval in first if interval is not None), default=1)
    if name == "none":
        return None
    if longest == 0:
        raise ConfigError(
            f"--scheduler {name} compares trials by iterations: set train.max_iterations"
        )
    if name == "asha":
        return schedulers.AsyncHyperBandScheduler(
            time_attr="iterations", max_t=longest, grace_period=grace, reduction_factor=2
        )
    return schedulers.MedianStoppingRule(
        time_attr="iterations", grace_period=grace, min_samples_required=2
    )


def _make_callback(watcher: _Watcher) -> Any:
    from ray import tune

    class Ends(tune.Callback):
        """Tells the watcher when Tune lets a trial go."""

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            watcher.ended(_trial_name(trial), error=False)

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            watcher.ended(_trial_name(trial), error=True)

        def __reduce__(self) -> Any:
            return (tune.Callback, ())  # Tune stores the experiment; our watcher is not part of it

    return Ends()


class _Watcher:
    """Notes how trials end, and turns Ctrl-C into checkpoints of the running ones."""

    def __init__(self, sweep_dir: Path, plan: SweepPlan, say: Callable[[str], None]) -> None:
        self.sweep_dir, self.say = sweep_dir, say
        self.trials = {trial.id: trial for trial in plan.trials}
        self.signalled = False
        self._told: set[str] = set()
        self._done = threading.Event()

    def ended(self, trial: str, *, error: bool) -> None:
        """Tune let the trial go: it returned, failed too often, or the scheduler stopped it."""
        if trial in self._told or self.signalled:
            return
        self._told.add(trial)
        run_dir = trial_dir(self.sweep_dir, trial)
        status = read_status(run_dir)
        if status is None:
            retries = self.trials[trial].config.resources.max_retries
            status = TrialStatus(
                outcome=FAILED if error else STOPPED,
                reason=f"given up after {retries} restart(s)" if error else "by the scheduler",
            )
            write_status(run_dir, status)
        last = "" if status.outcome == FINISHED else f": {status.reason.strip().splitlines()[-1]}"
        params = self.trials[trial].params
        what = ", ".join(f"{field}={value}" for field, value in params.items()) or "as it is"
        self.say(
            f"{len(self._told)}/{len(self.trials)}  {trial}  {status.outcome}  "
            f"({what}, seed {self.trials[trial].seed}){last}"
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Trap signals while the body runs."""
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        thread = threading.Thread(target=self._watch, name="colad-sweep", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join(timeout=10)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signalled:  # asked twice: do not wait for checkpoints
            os.kill(os.getpid(), signal.SIGUSR1)
        self.signalled = True

    def _watch(self) -> None:
        while not self._done.wait(POLL_S):
            if self.signalled:
                self.say("stopping: the running trials write their checkpoints first")
                self._stop_trials()
                os.kill(os.getpid(), signal.SIGUSR1)  # Tune ends its loop
                return

    def _stop_trials(self) -> None:
        import ray

        from orchestrator.monitor import find_monitor

        boards = []
        for trial in self.trials:
            try:
                boards.append(find_monitor(str(trial_dir(self.sweep_dir, trial))))
            except ValueError:  # not running
                continue
        for board in boards:
            board.request_stop.remote()
        until = time.monotonic() + STOP_GRACE_S
        while boards and time.monotonic() < until and not self._done.wait(POLL_S):
            running = []
            for board in boards:
                try:
                    if not ray.get(board.read.remote(), timeout=30).outcome:
                        running.append(board)
                except ray.exceptions.RayError:  # its trial has ended
                    continue
            boards = running
