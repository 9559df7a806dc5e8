"""The launcher: what ``colad train`` runs on the user's side of a run.

It checks what can fail, starts or joins Ray, hands the run to Tune, shows it, and turns Ctrl-C into
a checkpoint. Tune's loop has the main thread; a second thread reads the notice board.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.checkpoints import find_checkpoints, latest_valid, read_state
from orchestrator.config import RunConfig
from orchestrator.config_file import save_config
from orchestrator.datasets import (
    PreparedData,
    build_dataset,
    load_prepared,
    prepare_data,
    save_prepared,
)
from orchestrator.errors import ConfigError, CoTrainError, ResourceError
from orchestrator.evaluation import METRIC_NAMES, check_backend
from orchestrator.feed import batch_order
from orchestrator.live_view import LiveView
from orchestrator.mirror import check_uri
from orchestrator.nodes import check_nodes, living_nodes, modules_to_ship
from orchestrator.placement import (
    PlacementPlan,
    check_resources,
    plan_placement,
    resolve_gpus,
    resolve_ranks,
)
from orchestrator.quiet import quiet_environment
from orchestrator.run_dir import check_run_dir, making_run_dir
from orchestrator.run_watch import RunWatcher, silence_of
from orchestrator.runlog import read_log, write_environment
from orchestrator.trainer import make_plan
from orchestrator.waiting import ResourceWait, check_wait
from orchestrator.watch import ProgressFile

logger = logging.getLogger(__name__)

MIN_STORE_BYTES = 80 * 2**20
"""Ray's own lower bound of an object store, rounded up."""


class RunFailed(CoTrainError):
    """A run ended by an error of the code in an actor; the message holds its traceback."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a launched run ended."""

    outcome: str
    """``finished`` or ``stopped`` (a checkpoint was written; ``--resume`` goes on)."""
    run_dir: Path
    iteration: int
    evaluations: dict[str, dict[str, float]]
    """Last metrics of each network, in percent."""
    retries: int
    signal: int | None = None
    """What stopped it."""


def launch(
    config: RunConfig,
    run_dir: Path,
    *,
    resume: bool,
    address: str | None,
    view: LiveView,
    wait_s: float | None = None,
) -> RunResult:
    """Train a configuration to its end, or until Ctrl-C.

    Args:
        config: the run.
        run_dir: where everything goes; must be new unless ``resume``.
        resume: go on from the newest checkpoint in ``run_dir``.
        address: of a Ray cluster; None uses RAY_ADDRESS, else starts a Ray of its own.
        view: shows the run.
        wait_s: how long to wait for resources; None: ``waiting.ResourceWait``.

    Raises:
        CoTrainError: before the first iteration for everything that can be known then; later for a
            loss that is not finite, or after too many retries.
    """
    run_dir = run_dir.resolve()
    check_backend(config.evaluation.backend)
    check_wait(wait_s)
    if config.checkpoint.upload is not None:
        check_uri(config.checkpoint.upload, "checkpoint.upload")
    check_run_dir(run_dir, config, resume=resume)
    with making_run_dir(run_dir, keep=resume):
        check_run_dir(run_dir, config, resume=resume)  # another launcher may just have ended
        finished = finished_run(run_dir, config) if resume else None
        if finished is not None:
            view.message("finished already: nothing is left to train")
            return finished
        if resume:
            ProgressFile(run_dir).write(None)  # watchers: it is no longer stopped
        data = prepare_data(config.data, run_dir / "data")
        store_bytes = feed_store_bytes(config, len(data.classes))
        with connected(address, store_bytes, config.custom_imports):
            config = fit_to_cluster(config, wait=bool(wait_s))
            check_nodes(
                plan_placement(config),
                run_dir,
                files=data_files(data),
                modules=config.custom_imports,
                needed=store_bytes,
            )
            save_config(config, run_dir / "config.py")
            save_prepared(data, run_dir / "data.json")
            write_environment(run_dir)
            return _drive(config, run_dir, wait_s, view)


def finished_run(run_dir: Path, config: RunConfig) -> RunResult | None:
    """The result of a run that has reached its end, evaluation included; else None."""
    checkpoint = latest_valid(run_dir / "checkpoints", warn=logger.warning)
    log = read_log(run_dir, "evaluations")
    if checkpoint is None or log.empty:
        return None
    done = read_state(checkpoint).iteration
    last = log[log["iteration"] == done]
    data = load_prepared(run_dir / "data.json")
    length = config.train.max_iterations
    if length is None:
        dataset = build_dataset(config.data, data.train, data.classes, train=True)
        length = make_plan(config, batch_order(config, dataset)).max_iterations
    if done != length or set(last["network"]) != set(config.learners):
        return None
    rows = {row["network"]: row for row in last.to_dict("records")}
    return RunResult(
        outcome="finished",
        run_dir=run_dir,
        iteration=done,
        evaluations={
            name: {metric: rows[name][metric] for metric in METRIC_NAMES} for name in rows
        },
        retries=0,
    )


# -- memory -------------------------------------------------------------------------------------


def feed_store_bytes(config: RunConfig, num_classes: int) -> int:
    """Bytes of the object store that the run's batches and tables may take at once, generously."""
    width, height = config.data.largest_scale
    images = config.train.batch_size * config.train.accumulate
    in_flight = config.feed.prefetch + config.lookahead + 2
    tables = 64 * 2**20
    if config.soft_labels is not None:
        priors = width * height // 8**2 * 4 // 3  # strides 8, 16, ...
        per_prior = 2 * num_classes + 2 + 4 * 4  # float16 classes and quality, float32 boxes
        tables += images * priors * per_prior * len(config.readable) * (config.lookahead + 2)
    return images * width * height * 3 * in_flight + tables


def check_shared_memory(needed: int, folder: str = "/dev/shm") -> None:
    """Refuse a shared memory too small for the feed (Ray would silently fall back to the disk).

    Raises:
        ResourceError: needed and free megabytes, and what to change.
    """
    if not os.path.isdir(folder):
        return
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{folder} has {free / 2**20:.0f} MB free and the feed needs {needed / 2**20:.0f} MB: "
            "enlarge it (docker run --shm-size), or lower train.batch_size or data.scale"
        )


def data_files(data: PreparedData) -> Iterator[str]:
    """Of each split the annotations and one image (or whatever comes first in its folder)."""
    for split in (data.train, data.val):
        yield split.annotations
        folders = os.walk(split.images)
        first = (os.path.join(top, files[0]) for top, _, files in folders if files)
        yield next(first, split.images)


# -- Ray ----------------------------------------------------------------------------------------


@contextmanager
def connected(address: str | None, store_bytes: int, modules: Sequence[str] = ()) -> Iterator[None]:
    """A Ray for the run: the named cluster, else RAY_ADDRESS, else a fresh local one.

    Args:
        address: of the cluster.
        store_bytes: what a local one's object store must hold.
        modules: names of custom modules; a cluster's nodes are sent those that are not installed.

    Raises:
        ResourceError: the cluster does not answer, or this machine has too little shared memory.
    """
    quiet_environment()
    import ray

    target = address or os.environ.get("RAY_ADDRESS") or "local"
    if target != "local":
        _check_address(target, "--address" if address else "RAY_ADDRESS")
    if ray.is_initialized():  # a test, or a notebook, brought its own
        yield
        return
    common: dict[str, Any] = dict(log_to_driver=False, logging_level=logging.ERROR)
    if target == "local":
        check_shared_memory(store_bytes)
        store = max(MIN_STORE_BYTES, 2 * store_bytes)
        with _sessions_of_their_own():
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=min(store, _shared_memory_limit(store)),
                **common,
            )
    else:
        try:
            ray.init(address=target, runtime_env=_sent(modules), **common)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ResourceError(_no_answer(target, str(error))) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _sessions_of_their_own() -> Iterator[None]:
    """Keep signals to this process's group from the Ray processes that the body starts.

    `timeout`, a closing terminal and many batch systems signal the whole group; a Ray that ends
    then takes the checkpoint with it that this process is asked for. Ray has no option for it; its
    processes still end with this one (the kernel sees to that).
    """
    from ray._private import services

    plain = services.ConsolePopen
    services.ConsolePopen = functools.partial(plain, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = plain


def _sent(modules: Sequence[str]) -> dict[str, Any] | None:
    paths = modules_to_ship(modules)
    return {"py_modules": paths} if paths else None


def _shared_memory_limit(wanted: int) -> int:
    try:
        return max(MIN_STORE_BYTES, int(shutil.disk_usage("/dev/shm").free * 0.9))
    except OSError:
        return wanted


def _check_address(address: str, source: str) -> None:
    """Refuse an address that nobody listens on, before Ray waits for it for minutes."""
    if address == "auto":
        raise ResourceError(
            f"{source}=auto could mean a stale cluster: give its host:port, or leave it out"
        )
    plain = address.removeprefix("ray://")
    host, _, port = plain.rpartition(":")
    if not host or not port.isdecimal() or not port.isascii():
        raise ResourceError(f"{source} = {address!r}: expected host:port")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ResourceError(_no_answer(f"{source} {address}", str(error))) from error


def _no_answer(target: str, detail: str) -> str:
    first = detail.strip().splitlines()[0] if detail.strip() else "no answer"
    return (
        f"no Ray cluster answers at {target} ({first}): is it stale, or does it ask for a token "
        "(RAY_AUTH_MODE=token, ~/.ray/auth_token)? Start it, correct the address, or leave it out "
        "(and unset RAY_ADDRESS) for a Ray of its own"
    )


def fit_to_cluster(config: RunConfig, *, wait: bool = False) -> RunConfig:
    """The configuration with GPUs resolved, once the connected cluster can hold it.

    Args:
        config: the run.
        wait: go on where it cannot: somebody waits for what is missing.

    Raises:
        ResourceError: it cannot.
    """
    import ray

    nodes = living_nodes()
    config = resolve_ranks(resolve_gpus(config, ray.cluster_resources()), nodes)
    if wait and config.resources.ranks_per_node == "auto":  # of nodes that nobody knows yet
        resources = dataclasses.replace(config.resources, ranks_per_node=1)
        config = dataclasses.replace(config, resources=resources)
    if not wait:
        check_resources(plan_placement(config), nodes)
    return config


# -- the trial ----------------------------------------------------------------------------------


def _drive(config: RunConfig, run_dir: Path, wait_s: float | None, view: LiveView) -> RunResult:
    import ray

    from orchestrator.monitor import create_monitor
    from orchestrator.retries import RetryBudget

    try:
        board = create_monitor(str(run_dir))
    except ValueError as error:
        raise ConfigError(
            f"{run_dir} is being trained by another launcher on this cluster: wait for it, or use "
            "another --work-dir"
        ) from error
    wait = ResourceWait(plan_placement(config), wait_s, view.message)
    silence_s = silence_of(config, load_prepared(run_dir / "data.json").val.num_images)
    watcher = RunWatcher(run_dir, board, view, RetryBudget(config.resources), wait, silence_s)
    try:
        tuner = _make_tuner(config, run_dir, watcher)
        with watcher.running():
            results = tuner.fit()
    finally:
        ray.kill(board)
    return _conclude(watcher, results, run_dir)


def _make_tuner(config: RunConfig, run_dir: Path, watcher: RunWatcher) -> Any:
    from ray import tune

    from orchestrator.controller import cotrain_trial
    from orchestrator.retries import WITHOUT_END, trial_events

    hide_credentials()
    trainable = tune.with_resources(cotrain_trial, placement_factory(plan_placement(config)))
    experiment = run_dir / "checkpoints"
    return tune.Tuner(
        trainable,
        param_space={"run_dir": str(run_dir)},
        tune_config=tune.TuneConfig(
            trial_name_creator=lambda trial: "trial",
            trial_dirname_creator=lambda trial: "trial",
        ),
        run_config=tune.RunConfig(
            name=experiment.name,
            storage_path=str(run_dir),
            failure_config=tune.FailureConfig(max_failures=WITHOUT_END),
            callbacks=[trial_events(watcher), _silence()],
            verbose=0,
        ),
    )


def _silence() -> Any:
    """In place of Tune's callback that prints each end, whatever ``verbose`` says."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silence(TrialProgressCallback):
        """Tune adds its own only where none of its kind is given."""

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            pass

    return Silence()


def hide_credentials() -> None:
    """Keep Tune from handing this process's AWS keys to its trials in their runtime environment.

    Ray logs that in clear text, in files that others can read, and shows it in its dashboard. A
    local Ray's processes inherit the keys all the same; a cluster's machines have their own.
    """
    from ray.tune.execution import class_cache

    kept = (name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_"))
    class_cache.ENV_VARS_TO_PROPAGATE = frozenset(kept)


def placement_factory(plan: PlacementPlan) -> Any:
    """The plan as Tune takes it."""
    from ray import tune

    pinned = dict(bundle_label_selector=plan.labels) if any(plan.labels) else {}
    return tune.PlacementGroupFactory(plan.bundles, strategy=plan.strategy, **pinned)


def _conclude(watcher: RunWatcher, results: Any, run_dir: Path) -> RunResult:
    """The result of a run, or the error that ended it."""
    progress = watcher.progress
    if watcher.outcome == "failed":
        raise RunFailed(watcher.error)
    saved = find_checkpoints(run_dir / "checkpoints")
    if watcher.outcome == "stopped" and (progress is None or progress.iteration == 0):
        advice = "--resume goes on from the last checkpoint" if saved else "nothing was saved yet"
        raise RunFailed(f"stopped before the first iteration; {advice}")
    if watcher.outcome in ("finished", "stopped"):
        assert progress is not None
        return RunResult(
            outcome=watcher.outcome,
            run_dir=run_dir,
            iteration=progress.iteration,
            evaluations={name: dict(v) for name, v in progress.evaluations.items()},
            retries=watcher.budget.restarts,
            signal=watcher.signal,
        )
    if watcher.given_up:
        advice = "--resume goes on from the last checkpoint" if saved else "nothing was saved yet"
        raise RunFailed(f"{watcher.given_up}; {advice}")
    if watcher.signal is not None:
        advice = "--resume goes on from the last one" if saved else "there is none yet"
        raise RunFailed(f"stopped without writing a checkpoint; {advice}")
    error = results.errors[0] if results.num_errors else "no error was reported"
    raise RunFailed(f"the run ended without a result: {error}")
