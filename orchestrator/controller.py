"""The controller: a Ray Tune function that owns a run's actors and drives them.

Tune starts it and restarts it after a loss. Its checkpoints it writes itself, since Tune copies
file by file and a death in between leaves half of one; it finds its place by the newest intact one.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.actors import (
    ACTOR_OPTIONS,
    ActorFeed,
    ActorNetwork,
    FeederProcess,
    NetworkProcess,
    locate,
)
from orchestrator.calls import Calls
from orchestrator.checkpoint_store import run_store
from orchestrator.checkpoints import CheckpointState, latest_valid
from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.datasets import PreparedData, load_prepared
from orchestrator.errors import CoTrainError
from orchestrator.feed import BatchOrder
from orchestrator.live_view import Progress
from orchestrator.metrics import RunMetrics
from orchestrator.monitor import find_monitor
from orchestrator.placement import Bundle, PlacementPlan, plan_placement
from orchestrator.runlog import RunLog
from orchestrator.step import NetworkSpec
from orchestrator.trainer import CoTrainer, Hooks, Outcome, make_plan

logger = logging.getLogger(__name__)

PUBLISH_S = 0.25
"""Least time between two notices of progress."""
FAREWELL_S = 120.0
"""How long a stopped controller waits for the launcher to end the trial."""


def cotrain_trial(params: Mapping[str, Any]) -> None:
    """The Tune trainable: one co-training run.

    Args:
        params: ``run_dir``, which holds the resolved ``config.py`` and ``data.json``.

    Raises:
        NetworkLostError: a process was lost or hangs; Tune starts the trial again.
    """
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    run_dir = Path(params["run_dir"])
    board = find_monitor(str(run_dir))
    try:
        config = load_config(run_dir / "config.py")
        store = run_store(run_dir, config, run_dir / "checkpoints" / "trial")
        outcome = run_trial(run_dir, board, save_checkpoint=store.save)
        store.close()
    except CoTrainError as error:
        if error.retryable:
            raise  # the launcher counts it, and says so
        _conclude(board, "failed", reason_of(error, run_dir))
    except Exception as error:
        _conclude(board, "failed", reason_of(error, run_dir))
    else:
        if outcome is Outcome.STOPPED:
            _conclude(board, "stopped", "")
        ray.get(board.conclude.remote("finished"))


def reason_of(error: Exception, run_dir: Path) -> str:
    """Why a trial has failed for good: a line on what its user can mend, the traceback of a bug.

    Args:
        error: that ended it.
        run_dir: of the trial.
    """
    if isinstance(error, CoTrainError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or run_dir}: {error.strerror}; make room there"
    return "".join(traceback.format_exception(error))


def _conclude(board: Any, outcome: str, error: str) -> None:
    """Tell the launcher, then wait to be ended: a returning trial would count as finished."""
    ray.get(board.conclude.remote(outcome, error))
    time.sleep(FAREWELL_S)
    raise RuntimeError(f"the run has {outcome}, and no launcher ended it: {error}")


def run_trial(
    run_dir: Path,
    board: Any,
    *,
    save_checkpoint: Callable[[Mapping[str, bytes], CheckpointState], None],
    evaluated: Callable[[Progress], None] | None = None,
    ready: Callable[[RunLog], None] | None = None,
) -> Outcome:
    """One run, from its newest checkpoint or from the start, in actors of this placement group.

    Args:
        run_dir: holds the resolved ``config.py`` and ``data.json``.
        board: a ``RunMonitor`` actor.
        save_checkpoint: makes one consistent moment durable beneath ``run_dir / "checkpoints"``.
        evaluated: told after each evaluation of the learners.
        ready: told when the networks stand where training goes on.

    Raises:
        CoTrainError: as ``colad train``.
    """
    config = load_config(run_dir / "config.py")
    data = load_prepared(run_dir / "data.json")
    plan = plan_placement(config)
    calls = Calls(config.resources.hang_timeout)
    actors = _create_networks(config, plan)
    places = {name: locate(name, ranks, calls) for name, ranks in actors.items()}
    for ranks in actors.values():
        for rank in ranks:
            rank.prepare.remote(config.custom_imports)  # while the feeders open the data
    feed, order = _start_feeders(config, data, plan, places, calls)
    networks = _describe_networks(config, data, order, actors, places, calls)
    _record_places(run_dir, feed, places)
    building = [ref for network in networks for ref in network.build()]
    calls.wait(building)
    run_log = RunLog(run_dir, flush_every=config.log.flush_interval)
    trainer = CoTrainer(
        config,
        data,
        order,
        networks,
        feed,
        run_log,
        Hooks(
            resolve=calls.wait,
            save_checkpoint=save_checkpoint,
            report=_Reporter(board, RunMetrics(run_dir)),
            evaluated=evaluated,
            warn=_warner(board),
        ),
    )
    trainer.check()
    _announce(board, config, networks)
    if ray.get(board.publish.remote(Progress(status="starting"))):
        return Outcome.STOPPED  # asked during the start: there is nothing to save yet
    checkpoint = latest_valid(run_dir / "checkpoints", warn=_warner(board))
    if checkpoint is not None:
        trainer.restore(checkpoint)
        ray.get(board.message.remote(f"going on at iteration {trainer.iteration}"))
    else:
        run_log.truncate(0)
    if ready is not None:
        ready(run_log)
    try:
        return trainer.run()
    finally:
        run_log.close()


def _start_feeders(
    config: RunConfig,
    data: PreparedData,
    plan: PlacementPlan,
    places: Mapping[str, Sequence[Mapping[str, Any]]],
    calls: Calls,
) -> tuple[ActorFeed, BatchOrder]:
    """Feeders where the plan wants them: one per shard, or one per shard and node."""
    actor = ray.remote(FeederProcess)
    shards = []
    for shard in range(config.resources.ranks):
        if plan.feeders:
            bundles = {"": plan.feeders[shard]}
        else:
            bundles = {}
            for name, ranks in places.items():
                bundles.setdefault(ranks[shard]["node_id"], plan.networks[name][shard])
        asked = {"CPU": plan.cpus_per_feeder}
        options = {node: _options(asked, bundle) for node, bundle in bundles.items()}
        shards.append({node: actor.options(**chosen).remote() for node, chosen in options.items()})
    feed = ActorFeed(shards, config.feed.prefetch, calls)
    opened = feed.build(config, data)
    order = BatchOrder(opened["num_images"], config.train.batch_size, config.seed, opened["wide"])
    return feed, order


def _create_networks(config: RunConfig, plan: PlacementPlan) -> dict[str, list[Any]]:
    actor = ray.remote(NetworkProcess)
    return {
        name: [actor.options(**_options(plan.ranks[name], bundle)).remote() for bundle in bundles]
        for name, bundles in plan.networks.items()
    }


def _describe_networks(
    config: RunConfig,
    data: PreparedData,
    order: BatchOrder,
    actors: Mapping[str, Sequence[Any]],
    places: Mapping[str, Sequence[Mapping[str, Any]]],
    calls: Calls,
) -> list[ActorNetwork]:
    length = make_plan(config, order)
    return [
        ActorNetwork(
            NetworkSpec(
                name=name,
                config=config,
                data=data,
                iterations_per_epoch=length.iterations_per_epoch,
                max_iterations=length.max_iterations,
            ),
            ranks,
            places[name],
            calls,
        )
        for name, ranks in actors.items()
    ]


def _record_places(
    run_dir: Path, feed: ActorFeed, places: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Where everything runs, for whoever looks after the run (``processes.json``)."""
    own = dict(pid=os.getpid(), node_id=ray.get_runtime_context().get_node_id())
    everything = dict(controller=own, feeders=feed.places(), networks=places)
    temporary = run_dir / "processes.json.tmp"
    temporary.write_text(json.dumps(everything, indent=1), encoding="utf-8")
    temporary.replace(run_dir / "processes.json")


def _options(asked: Bundle, bundle: int) -> dict[str, Any]:
    """Actor options that take ``asked`` out of one bundle of the trial's own placement group."""
    group: PlacementGroup | None = ray.util.get_current_placement_group()
    assert group is not None, "a controller runs inside Tune's placement group"
    return dict(
        num_cpus=asked.get("CPU", 0.0),
        num_gpus=asked.get("GPU", 0.0),
        resources={name: asked[name] for name in asked if name not in ("CPU", "GPU")},
        **ACTOR_OPTIONS,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=bundle
        ),
    )


def _announce(board: Any, config: RunConfig, networks: Sequence[ActorNetwork]) -> None:
    roles = ", ".join(
        f"{network.name} ({'learner' if network.learner else 'frozen teacher'})"
        for network in networks
    )
    switch = config.switch
    rule = switch.teacher or switch.criterion
    ray.get(board.message.remote(f"networks: {roles}; assigner {config.assigner['type']}; {rule}"))


def _warner(board: Any) -> Any:
    def warn(text: str) -> None:
        logger.warning(text)
        ray.get(board.message.remote(f"warning: {text}"))

    return warn


class _Reporter:
    """Publishes progress without waiting, and remembers the stop flag that comes back."""

    def __init__(self, board: Any, metrics: RunMetrics) -> None:
        self.board, self.metrics = board, metrics
        self._answer: Any = None
        self._published_s = 0.0
        self._status = ""
        self._stop = False

    def __call__(self, progress: Progress) -> bool:
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if ready:
                self._stop = self._stop or bool(ray.get(self._answer))
                self._answer = None
        now = time.monotonic()
        due = now - self._published_s >= PUBLISH_S or progress.status != self._status
        ended = progress.iteration == progress.max_iterations
        if due or ended:
            self._answer = self.board.publish.remote(progress)
            self.metrics.publish(progress)
            self._published_s, self._status = now, progress.status
        return self._stop
