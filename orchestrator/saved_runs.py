"""Networks of a finished or stopped run, read back without Ray."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from orchestrator.building import build_detector, import_custom
from orchestrator.checkpoints import latest_valid, read_part, read_state, verify
from orchestrator.config import NetworkConfig, RunConfig
from orchestrator.config_file import load_config
from orchestrator.datasets import PreparedData, load_prepared
from orchestrator.errors import CheckpointError
from orchestrator.trainer import part_name
from orchestrator.weights import deserialise, load_into, state_dict_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A run directory at one of its checkpoints."""

    run_dir: Path
    checkpoint: Path
    iteration: int
    config: RunConfig
    data: PreparedData

    def build(self, network: str) -> tuple[nn.Module, dict[str, Any]]:
        """The network with its saved weights, in eval mode on the CPU, and its ``model`` dict.

        Raises:
            CheckpointError: no such network, or its weights are none.
        """
        if network not in self.config.networks:
            raise CheckpointError(
                f"{self.run_dir} has no network {network!r}; it has {list(self.config.networks)}"
            )
        settings = self.config.networks[network]
        random = NetworkConfig(  # the saved weights replace whatever it started from
            preset=settings.preset,
            config=settings.config,
            model=settings.model,
            pretrained="none",
        )
        import_custom(self.config.custom_imports)
        detector, model = build_detector(network, random, len(self.data.classes), self.config.seed)
        file = part_name(network, 0)
        what = f"network {network!r} of {self.checkpoint / file}"
        part = deserialise(read_part(self.checkpoint, file), what)
        load_into(detector, state_dict_of(part, what), what=what)
        return detector.eval(), model


def open_run(path: Path) -> SavedRun:
    """Open a run directory at its newest valid checkpoint, or one named checkpoint of it.

    Raises:
        CheckpointError: no run, no checkpoint, or a damaged one.
    """
    path = path.resolve()
    if (path / "state.json").is_file():
        checkpoint, run_dir = path, _run_above(path)
        verify(checkpoint)
    else:
        run_dir = path
        _require_run(run_dir)
        newest = latest_valid(run_dir / "checkpoints", warn=logger.warning)
        if newest is None:
            raise CheckpointError(f"{run_dir}: no checkpoint yet in checkpoints/")
        checkpoint = newest
    return SavedRun(
        run_dir=run_dir,
        checkpoint=checkpoint,
        iteration=read_state(checkpoint).iteration,
        config=load_config(run_dir / "config.py"),
        data=load_prepared(run_dir / "data.json"),
    )


def _require_run(path: Path) -> None:
    if not (path / "config.py").is_file() or not (path / "data.json").is_file():
        raise CheckpointError(f"{path}: not a run directory (no config.py and data.json)")


def _run_above(checkpoint: Path) -> Path:
    for parent in checkpoint.parents:
        if (parent / "config.py").is_file() and (parent / "data.json").is_file():
            return parent
    raise CheckpointError(f"{checkpoint}: no run directory above it (config.py and data.json)")
