"""A run on a cluster of this machine, one of whose nodes is lost: a process of its own.

``python -m tests.faults.cluster_run JSON`` with ``fault`` (``raylet``: kill -9; ``remove``), the
nodes' number, the moments and the run. Prints ``FAULT`` when it strikes; a new node comes after
each but the last.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.quiet import quiet_environment

quiet_environment()

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from rich.console import Console  # noqa: E402

from orchestrator.config_file import load_config  # noqa: E402
from orchestrator.errors import CoTrainError  # noqa: E402
from orchestrator.launcher import launch  # noqa: E402
from orchestrator.live_view import LiveView  # noqa: E402
from tests.faults.harness import Moment, saved  # noqa: E402
from tests.support.runs import CONFIG, processes  # noqa: E402

NODE = dict(num_cpus=1, object_store_memory=150 * 2**20)
QUICK = dict(
    health_check_initial_delay_ms=0,
    health_check_period_ms=500,
    health_check_timeout_ms=1000,
    health_check_failure_threshold=4,
)
"""A lost node is noticed after some seconds instead of 15."""


def strike(cluster: Any, fault: str, moments: Sequence[Moment], run_dir: Path, head: str) -> None:
    """Lose the node of a network that is not the head's, at each of the moments."""
    since = 0.0
    for index, moment in enumerate(moments):
        if index:
            cluster.add_node(**NODE)
        moment.wait(run_dir, lambda: True, since)
        nodes = {ranks[0]["node_id"] for ranks in processes(run_dir)["networks"].values()}
        victim = next(n for n in cluster.list_all_nodes() if n.node_id in nodes - {head})
        before, since = max(saved(run_dir), default=0), time.time()
        print(f"FAULT after iteration {before} on node {victim.node_id[:8]}", flush=True)
        if fault == "raylet":
            os.kill(victim.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        else:
            cluster.remove_node(victim, allow_graceful=False)


def main(request: dict[str, Any]) -> int:
    """A cluster for the run; the exit code of ``colad train``."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        head_args = {**NODE, "include_dashboard": False, "temp_dir": folder}
        cluster = Cluster(
            initialize_head=True,
            head_node_args={**head_args, "_system_config": QUICK},
            shutdown_at_exit=False,  # its hooks want the main thread, and nodes come in another
        )
        try:
            return train(cluster, request)
        finally:
            ray.shutdown()
            cluster.shutdown()


def train(cluster: Any, request: dict[str, Any]) -> int:
    """The run, which loses nodes meanwhile; the exit code of ``colad train``."""
    for _ in range(request["nodes"]):
        cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    run_dir = Path(request["run_dir"])
    moments = [Moment(after, delay_s) for after, delay_s in request["moments"]]
    arguments = (cluster, request["fault"], moments, run_dir, cluster.head_node.node_id)
    threading.Thread(target=strike, args=arguments, daemon=True).start()
    try:
        with LiveView(Console(width=200), title="faults") as view:
            config = load_config(CONFIG, request["overrides"])
            result = launch(config, run_dir, resume=False, address=None, view=view)
    except CoTrainError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 2
    print(f"{result.outcome} at iteration {result.iteration}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(json.loads(sys.argv[1])))
