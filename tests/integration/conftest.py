"""One Ray for the tests of this folder, with its own folder; a tiny run to drive on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.quiet import quiet_environment
from tests.support.runs import CONFIG, SMALL

quiet_environment()


@pytest.fixture(scope="session")
def shapes_root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="colad-test-") as folder:
        yield Path(folder) / "shapes"


@pytest.fixture(scope="session")
def small_overrides(shapes_root: Path) -> list[str]:
    return [f"data.root={shapes_root}", *SMALL]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """A Ray of this test session only."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=4,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=200 * 2**20,
            _temp_dir=folder,
        )
        yield ray
        ray.shutdown()


Train = Callable[..., Any]


@pytest.fixture
def train(
    ray_session: Any, small_overrides: Sequence[str], tmp_path: Path
) -> Callable[..., tuple[Any, Path]]:
    """Launch a small CoLAD run with overrides; returns its result and directory."""
    from orchestrator.config_file import load_config
    from orchestrator.launcher import launch
    from orchestrator.live_view import LiveView

    def run(
        *overrides: str, config: Path = CONFIG, name: str = "run", resume: bool = False
    ) -> tuple[Any, Path]:
        run_config = load_config(
            config, [*small_overrides, "resources.gpus_per_network=0", *overrides]
        )
        run_dir = tmp_path / name
        with LiveView(Console(quiet=True), title=name) as view:
            result = launch(run_config, run_dir, resume=resume, address=None, view=view)
        return result, run_dir

    return run
