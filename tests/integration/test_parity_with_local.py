"""Networks in actors and networks in this process give the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.local_run import run_locally
from tests.support.runs import CONFIG, assert_equal_weights, final_weights

pytestmark = pytest.mark.ray

Train = Callable[..., tuple[Any, Path]]


def test_local_and_actor_runs_are_equal(
    train: Train, small_overrides: Sequence[str], tmp_path: Path
) -> None:
    from orchestrator.config import load_config

    result, run_dir = train()
    assert result.iteration == 20
    local_dir = tmp_path / "local"
    run_locally(load_config(CONFIG, small_overrides), local_dir)
    assert_equal_weights(final_weights(local_dir), final_weights(run_dir))
