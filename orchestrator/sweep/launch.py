"""The launcher of a sweep: writes the plan down, hands the trials to Tune, shows how they end."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError, ResourceError
from orchestrator.evaluation import check_backend
from orchestrator.launcher import (
    connected,
    feed_store_bytes,
    fit_to_cluster,
)
from orchestrator.nodes import check_nodes, living_nodes
from orchestrator.placement import count_fitting, plan_placement, resolve_gpus
from orchestrator.run_dir import making_run_dir
from orchestrator.runlog import write_environment
from orchestrator.sweep.layout import Layout
from orchestrator.sweep.plan import SweepPlan
from orchestrator.sweep.status import read_status
from orchestrator.sweep.trackers import Trackers
from orchestrator.sweep.tuner import SCHEDULERS, check_scheduler, make_tuner
from orchestrator.sweep.watch import Watcher
from orchestrator.waiting import ResourceWait, check_wait


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """How a sweep ended."""

    sweep_dir: Path
    outcomes: dict[str, str]
    """Trial to ``finished``, ``failed``, ``stopped`` (by the scheduler) or ``unfinished``."""
    signal: int | None = None
    """What stopped it, if something did."""

    @property
    def interrupted(self) -> bool:
        """Whether ``--resume`` has something to go on with."""
        return self.signal is not None


def launch_sweep(
    plan: SweepPlan,
    sweep_dir: Path,
    *,
    resume: bool,
    address: str | None,
    scheduler: str,
    concurrency: int | None,
    say: Callable[[str], None],
    trackers: Trackers | None = None,
    wait_s: float | None = None,
) -> SweepResult:
    """Run the trials of a plan, as many at once as fit.

    Args:
        plan: the trials.
        sweep_dir: where everything goes; must be new unless ``resume``.
        resume: go on with the sweep there: trials that have ended stay as they are, the others go
            on from their newest checkpoints.
        address: of a Ray cluster; None uses RAY_ADDRESS, else starts a Ray of its own.
        scheduler: one of ``SCHEDULERS``; what ends or changes trials early.
        concurrency: trials at once; None: as many as the cluster holds.
        say: told one line about every trial that ends.
        trackers: other places to report to.
        wait_s: how long to wait for resources; None: ``waiting.ResourceWait``.

    Raises:
        CoTrainError: before the first trial for everything that can be known then.
    """
    if scheduler not in SCHEDULERS:
        raise ConfigError(f"--scheduler {scheduler}: expected one of {', '.join(SCHEDULERS)}")
    if concurrency is not None and concurrency < 1:
        raise ConfigError(f"--concurrency {concurrency}: at least 1")
    check_wait(wait_s)
    trackers = trackers or Trackers()
    trackers.check()
    layout = Layout(sweep_dir.resolve(), plan)
    layout.check(resume=resume)
    configs = [trial.config for trial in layout.trials] or [plan.draw(0, plan.start).config]
    check_scheduler(scheduler, plan, configs, concurrency)
    if any(config.checkpoint.upload for config in configs):
        raise ConfigError("checkpoint.upload: a sweep keeps no copy elsewhere; remove the field")
    for backend in {config.evaluation.backend for config in configs}:
        check_backend(backend)
    with making_run_dir(layout.sweep_dir, keep=resume):
        layout.check(resume=resume)  # another launcher may just have ended
        store = max(feed_store_bytes(config, 80) for config in configs)
        at_once = concurrency or _guess_at_once(configs, plan.size)
        modules = [name for config in configs for name in config.custom_imports]
        with connected(address, store * at_once, modules):
            waits = bool(wait_s)
            fitted = [fit_to_cluster(layout.config_of(t), wait=waits) for t in layout.trials]
            some = fitted[0] if fitted else fit_to_cluster(configs[0], wait=waits)
            check_nodes(
                plan_placement(some),
                layout.sweep_dir,
                files=[] if some.data.shapes else [Path(some.data.root).resolve()],
                modules=modules,
                needed=store,
            )
            for trial, config in zip(layout.trials, fitted):
                layout.add(trial, config)
            write_environment(layout.sweep_dir)
            layout.save()
            wait = ResourceWait(plan_placement(some), wait_s, say)
            watcher = Watcher(layout, plan.size, say, wait)
            at_once = _at_once(fitted or [some], concurrency, plan.size, say)
            tuner = make_tuner(layout, scheduler, at_once, watcher, trackers)
            with watcher.running(), warnings.catch_warnings():
                # it means class trainables: a process of ours owns actors and a placement group
                warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
                tuner.fit()
    if watcher.given_up:
        raise ResourceError(f"{watcher.given_up}; --resume goes on with the sweep")
    outcomes = {}
    for trial in layout.trials:
        status = read_status(layout.trial_dir(trial.id))
        outcomes[trial.id] = "unfinished" if status is None else status.outcome
    return SweepResult(sweep_dir=layout.sweep_dir, outcomes=outcomes, signal=watcher.signal)


def _guess_at_once(configs: list[RunConfig], size: int) -> int:
    """Trials that a Ray of our own could hold, by this machine's cores; for its object store."""
    asked = [plan_placement(resolve_gpus(config, {})).total()["CPU"] for config in configs]
    return max(1, min(size, int((os.cpu_count() or 1) / min(asked))))


def _at_once(
    configs: list[RunConfig], wanted: int | None, size: int, say: Callable[[str], None]
) -> int:
    """How many trials run at once: what the connected cluster holds of the smallest ones."""
    nodes = living_nodes()
    plans = {repr(plan): plan for plan in map(plan_placement, configs)}.values()
    fitting = max(count_fitting(plan, nodes, limit=size) for plan in plans)
    if wanted is not None and wanted > fitting and size > fitting:
        say(f"--concurrency {wanted}: the cluster holds {fitting} trial(s) at a time")
    return max(1, min(fitting, size) if wanted is None else wanted)
