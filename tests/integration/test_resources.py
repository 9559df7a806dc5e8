"""What a cluster lacks is said before anything waits for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import DataError, ResourceError

pytestmark = pytest.mark.ray

Train = Callable[..., tuple[Any, Path]]


def test_more_gpus_than_there_are(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"asks for .* 16 GPU .* has .* 4 GPU"):
        train("resources.gpus_per_network=8")
    assert not (tmp_path / "run").exists()


def test_more_cpus_than_there_are(train: Train) -> None:
    with pytest.raises(ResourceError, match="too little CPU"):
        train("resources.cpus_per_network=64")


def test_error_in_an_actor_reaches_the_user(train: Train) -> None:
    from orchestrator.launcher import RunFailed

    with pytest.raises(RunFailed, match=r"ConfigError: .*networks.r18.*Adamm"):
        train("networks.r18.optimizer={'type': 'Adamm'}")


def test_two_launchers_of_one_run(train: Train, ray_session: Any, tmp_path: Path) -> None:
    from orchestrator.errors import ConfigError
    from orchestrator.monitor import create_monitor

    board = create_monitor(str((tmp_path / "run").resolve()))
    ray_session.get(board.read.remote())
    try:
        with pytest.raises(ConfigError, match="another launcher"):
            train()
    finally:
        ray_session.kill(board)


def test_non_finite_loss_ends_the_run_without_retry(train: Train) -> None:
    from orchestrator.launcher import RunFailed

    with pytest.raises(RunFailed, match=r"NonFinite(Loss|Cost)Error: .*\br\d+.*images \["):
        train(
            "train.optimizer={'_delete_': True, 'type': 'SGD', 'lr': 1e12}",
            "train.param_scheduler=[]",
            "train.clip_grad=None",
        )


def test_image_that_breaks_during_the_run(train: Train, shapes_root: Path, tmp_path: Path) -> None:
    """A file that was whole when the run began; the feeder names it."""
    import threading
    import time

    from orchestrator.launcher import RunFailed

    def damage() -> None:
        run_dir = tmp_path / "run"
        while not (run_dir / "processes.json").exists():
            time.sleep(0.05)
        for image in (shapes_root / "images").iterdir():
            whole.append((image, image.read_bytes()))
            image.write_bytes(b"")

    whole: list[tuple[Path, bytes]] = []
    thread = threading.Thread(target=damage)
    thread.start()
    try:
        with pytest.raises((RunFailed, DataError), match="could not be loaded"):
            train("train.max_iterations=2000")
    finally:
        thread.join()
        for image, content in whole:
            image.write_bytes(content)
