"""Shares of GPUs: two trials at once on two GPUs, two networks on each.

Ray only counts these GPUs; without CUDA the networks compute on the CPU, where weights can be
compared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from orchestrator.config_file import load_config
from orchestrator.local_run import run_locally
from tests.support.runs import ROOT, assert_equal_weights, final_weights, processes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROGRAM = """
import json, sys, time
from pathlib import Path
from orchestrator.quiet import quiet_environment
quiet_environment()
import ray
from orchestrator.sweep.launch import launch_sweep
from orchestrator.sweep.plan import SweepOptions, plan_sweep

folder, config, overrides = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
ray.init(address="local", num_cpus=16, num_gpus=2, include_dashboard=False, log_to_driver=False)
options = SweepOptions(config=config, overrides=overrides, samples=3, gpus_per_network=0.5)
plan = plan_sweep("colad-search", options)
result = launch_sweep(
    plan, folder, resume=False, address=None, scheduler="none", concurrency=None, say=print
)
assert set(result.outcomes.values()) == {"finished"}, result.outcomes
"""


def test_trials_share_gpus(tmp_path: Path, small_overrides: Sequence[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("the test compares with a run on the CPU; run it with CUDA_VISIBLE_DEVICES=")
    folder, config = tmp_path / "sweep", ROOT / "configs" / "tiny" / "colad_shapes.py"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(config), json.dumps(small_overrides)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = sorted((folder / "trials").iterdir())
    spans = []
    for trial in trials:
        ranks = [rank for ranks in processes(trial)["networks"].values() for rank in ranks]
        assert all(len(rank["gpu_ids"]) == 1 for rank in ranks)
        end = (trial / "trial.json").stat().st_mtime
        spans.append((end - json.loads((trial / "trial.json").read_text())["seconds"], end))
    assert len(spans) == 3
    at_once = [sum(s < start < e for s, e in spans) + 1 for start, _ in spans]
    assert max(at_once) == 2  # 3 would need 3 GPUs
    run_dir = trials[-1]
    resolved = load_config(run_dir / "config.py")
    assert resolved.resources.gpus_per_network == 0.5
    resources = dataclasses.replace(resolved.resources, gpus_per_network=0)
    run_locally(dataclasses.replace(resolved, resources=resources), tmp_path / "alone")
    assert_equal_weights(final_weights(run_dir), final_weights(tmp_path / "alone"))
