"""Networks on different nodes: three raylets on this machine, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.runs import CONFIG, ROOT, assert_equal_weights, final_weights, processes

pytestmark = pytest.mark.ray

CLUSTER = """
import json, sys, tempfile
from pathlib import Path

from orchestrator.quiet import quiet_environment

quiet_environment()
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from orchestrator.config_file import load_config
from orchestrator.launcher import launch
from orchestrator.live_view import LiveView

config, work_dir, overrides = json.loads(sys.argv[1])
node = dict(num_cpus=1, object_store_memory=150 * 2**20)
with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False, "temp_dir": folder},
    )
    cluster.add_node(**node, labels={"card": "small"})
    cluster.add_node(**node, resources={"large": 1})
    loaded = load_config(config, overrides)
    with LiveView(Console(quiet=True), title="nodes") as view:
        launch(loaded, Path(work_dir), resume=False, address=cluster.address, view=view)
    cluster.shutdown()
"""


def test_networks_and_feeders_on_three_nodes(
    small_overrides: Sequence[str], tmp_path: Path
) -> None:
    """Each network on the node that it is told, a feeder beside it: the weights of one process.

    The launcher joins the cluster by its address, so it asks the nodes what they see, too.
    """
    from orchestrator.config_file import load_config
    from orchestrator.local_run import run_locally

    spread = [
        *small_overrides,
        "train.max_iterations=6",
        "networks.r18.labels={'card': 'small'}",
        "networks.r34.resources={'large': 1}",
        "resources.cpus_per_network=0.7",
        "feed.placement=per_node",
    ]
    arguments = json.dumps([str(CONFIG), str(tmp_path / "spread"), spread])
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    placed = processes(tmp_path / "spread")
    nodes = {ranks[0]["node_id"] for ranks in placed["networks"].values()}
    assert len(nodes) == 2
    assert {feeder["node_id"] for feeder in placed["feeders"]} == nodes
    run_locally(load_config(CONFIG, spread), tmp_path / "local")
    assert_equal_weights(final_weights(tmp_path / "spread"), final_weights(tmp_path / "local"))
