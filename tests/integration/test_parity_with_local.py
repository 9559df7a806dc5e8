"""Networks in actors and networks in this process give the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.local_run import run_locally
from orchestrator.watch import read_progress
from tests.support.runs import CONFIG, assert_equal_weights, final_weights

pytestmark = pytest.mark.ray

Train = Callable[..., tuple[Any, Path]]


def test_local_and_actor_runs_are_equal(
    train: Train, small_overrides: Sequence[str], tmp_path: Path
) -> None:
    from orchestrator.config_file import load_config

    result, run_dir = train()
    assert result.iteration == 20
    seen = read_progress(run_dir)
    assert seen is not None and (seen.outcome, seen.progress.iteration) == ("finished", 20)
    local_dir = tmp_path / "local"
    run_locally(load_config(CONFIG, small_overrides), local_dir)
    assert_equal_weights(final_weights(local_dir), final_weights(run_dir))


def fixed_teacher(small_overrides: Sequence[str], folder: Path) -> list[str]:
    """Overrides that make r34 a frozen teacher with random weights."""
    from orchestrator.config_file import load_config

    short = [*small_overrides, "train.max_iterations=1"]
    run_locally(load_config(CONFIG, short), folder)
    weights = folder / "teacher.pth"
    torch.save(dict(state_dict=final_weights(folder)["r34"]), weights)
    return [
        "switch={'_delete_': True, 'criterion': 'fixed', 'teacher': 'r34'}",
        "networks.r34.learner=False",
        f"networks.r34.checkpoint={weights}",
    ]


@pytest.mark.parametrize("kind", ["solad", "colad"])
def test_local_and_actor_runs_are_equal_with_soft_labels(
    train: Train, small_overrides: Sequence[str], tmp_path: Path, kind: str
) -> None:
    """The float16 cast is the same in both; a frozen teacher runs ahead in actors."""
    from orchestrator.config_file import load_config

    overrides = ["soft_labels.gamma=0.5"]
    if kind == "solad":
        overrides += fixed_teacher(small_overrides, tmp_path / "teacher")
    result, run_dir = train(*overrides)
    assert result.iteration == 20
    local_dir = tmp_path / "local"
    run_locally(load_config(CONFIG, [*small_overrides, *overrides]), local_dir)
    assert_equal_weights(final_weights(local_dir), final_weights(run_dir))
