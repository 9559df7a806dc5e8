"""A whole run in this process, without Ray: for tests, notebooks and debuggers."""

from __future__ import annotations

import logging
from pathlib import Path

from orchestrator.building import import_custom
from orchestrator.checkpoint_store import run_store
from orchestrator.checkpoints import latest_valid
from orchestrator.config import RunConfig
from orchestrator.config_file import save_config
from orchestrator.datasets import build_dataset, check_test_pipeline, prepare_data, save_prepared
from orchestrator.feed import Feeder, batch_order
from orchestrator.local import LocalFeed, LocalNetwork, resolve
from orchestrator.runlog import RunLog, write_environment
from orchestrator.step import NetworkSpec
from orchestrator.trainer import CoTrainer, Hooks, make_plan

logger = logging.getLogger(__name__)


def run_locally(config: RunConfig, run_dir: Path, *, resume: bool = False) -> CoTrainer:
    """Train to the end; networks take turns. Weights are bit-equal to those of a run in actors.

    Args:
        config: the run; ``resources.ranks`` must be 1.
        run_dir: where everything goes, in the same layout.
        resume: go on from the newest checkpoint there.

    Returns:
        The trainer, with its networks and last evaluations.

    Raises:
        CoTrainError: as ``colad train``.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    import_custom(config.custom_imports)
    data = prepare_data(config.data, run_dir / "data")
    save_config(config, run_dir / "config.py")
    save_prepared(data, run_dir / "data.json")
    write_environment(run_dir)
    check_test_pipeline(config.data, data)
    dataset = build_dataset(config.data, data.train, data.classes, train=True)
    order = batch_order(config, dataset)
    feeder = Feeder(dataset, order, seed=config.seed, workers=config.feed.workers)
    plan = make_plan(config, order)
    networks = [
        LocalNetwork(
            NetworkSpec(
                name=name,
                config=config,
                data=data,
                iterations_per_epoch=plan.iterations_per_epoch,
                max_iterations=plan.max_iterations,
            )
        )
        for name in config.networks
    ]
    checkpoints = run_dir / "checkpoints"
    run_log = RunLog(run_dir, flush_every=config.log.flush_interval)
    store = run_store(run_dir, config, checkpoints)
    hooks = Hooks(
        resolve=resolve,
        save_checkpoint=store.save,
        report=lambda progress: False,
    )
    trainer = CoTrainer(config, data, order, networks, LocalFeed([feeder]), run_log, hooks)
    trainer.check()
    newest = latest_valid(checkpoints, warn=logger.warning) if resume else None
    if newest is not None:
        trainer.restore(newest)
    try:
        trainer.run()
    finally:
        run_log.close()
    store.close()
    return trainer
