"""``colad check``: everything that can fail, before it costs.

The same checks guard ``colad train``: there the data is checked by the launcher and the networks by
their actors, all before the first iteration.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from orchestrator.config import RunConfig
from orchestrator.datasets import PreparedData, build_dataset, check_test_pipeline, prepare_data
from orchestrator.evaluation import check_backend
from orchestrator.feed import Feeder, batch_order
from orchestrator.grid import check_compatible
from orchestrator.launcher import (
    connected,
    data_files,
    feed_store_bytes,
    fit_to_cluster,
)
from orchestrator.mirror import check_uri
from orchestrator.network import Network
from orchestrator.nodes import check_nodes
from orchestrator.placement import plan_placement
from orchestrator.run_dir import check_run_dir, make_writable
from orchestrator.step import NetworkSpec
from orchestrator.trainer import make_plan


def preflight(config: RunConfig, run_dir: Path, *, address: str | None) -> Iterator[str]:
    """Yield one line per check passed.

    Raises:
        CoTrainError: the first check that fails, naming what to change.
    """
    yield "configuration"
    check_backend(config.evaluation.backend)
    yield f"evaluation by {config.evaluation.backend}"
    if config.checkpoint.upload is not None:
        check_uri(config.checkpoint.upload, "checkpoint.upload")
        yield f"{config.checkpoint.upload} can be written"
    check_run_dir(run_dir, config, resume=False)
    if make_writable(run_dir):
        run_dir.rmdir()
    yield f"run directory {run_dir} can be written"
    with tempfile.TemporaryDirectory() as cache:
        data = prepare_data(config.data, Path(cache))
        yield (
            f"data: {data.train.num_images} training and {data.val.num_images} validation images, "
            f"{len(data.classes)} classes ({', '.join(data.classes[:8])})"
        )
        yield from _check_networks(config, data)
        cleaned = str(Path(cache).resolve())
        files = [name for name in data_files(data) if not name.startswith(cleaned)]
    names = (config.data.train, config.data.val)
    files += [str((Path(config.data.root) / name).resolve()) for name in names]
    needed = feed_store_bytes(config, len(data.classes))
    with connected(address, needed, config.custom_imports):
        plan = plan_placement(fit_to_cluster(config))
        asked = ", ".join(f"{amount:g} {name}" for name, amount in plan.total().items())
        yield f"Ray has what the run asks for: {asked} of {_cluster()}"
        yield f"shared memory for {needed / 2**20:.0f} MB of batches"
        made = make_writable(run_dir)
        try:
            number = check_nodes(
                plan, run_dir.resolve(), files=files, modules=config.custom_imports, needed=needed
            )
        finally:
            if made:
                run_dir.rmdir()
        if number:
            yield f"{number} nodes see the run directory and the data"


def _check_networks(config: RunConfig, data: PreparedData) -> Iterator[str]:
    check_test_pipeline(config.data, data)
    dataset = build_dataset(config.data, data.train, data.classes, train=True)
    order = batch_order(config, dataset)
    batch = Feeder(dataset, order, seed=config.seed, num_shards=config.resources.ranks).batch(0)
    yield f"feed: one batch of {batch.num_images} images decoded ({batch.nbytes / 2**20:.1f} MB)"
    plan = make_plan(config, order)
    grids = {}
    for name in config.networks:
        network = Network(
            NetworkSpec(
                name=name,
                config=config,
                data=data,
                iterations_per_epoch=plan.iterations_per_epoch,
                max_iterations=plan.max_iterations,
            )
        )
        grids[name] = network.describe()
        yield f"network {name}: {_describe(network)}"
    check_compatible(grids)
    yield f"networks can be compared: {len(grids)} on strides {next(iter(grids.values())).strides}"


def _describe(network: Any) -> str:
    parameters = sum(p.numel() for p in network.detector.parameters())
    role = "learner" if network.learner else "frozen teacher"
    return f"{role}, {parameters / 1e6:.2f} M parameters"


def _cluster() -> str:
    resources = ray.cluster_resources()
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
