"""Everything that a report reads of one run directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.building import import_custom
from orchestrator.checkpoints import find_checkpoints, read_state
from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.datasets import PreparedData, load_prepared
from orchestrator.errors import ConfigError
from orchestrator.evaluation import METRIC_NAMES, Detections
from orchestrator.json_files import damaged_as, read_object
from orchestrator.runlog import read_detections, read_log

OLDER = "the run is of a version that did not log this"


@dataclass(frozen=True, kw_only=True)
class RunData:
    """One run as its directory tells it."""

    run_dir: Path
    config: RunConfig
    data: PreparedData
    environment: dict[str, Any]
    iterations: pd.DataFrame
    evaluations: pd.DataFrame
    samples: pd.DataFrame
    """``assignments.parquet``."""
    detections: dict[str, Detections]
    """Of the newest evaluation, by network."""
    checkpoints: tuple[Path, ...]
    """By iteration."""
    lacks: list[str] = field(default_factory=list)
    """Sentences on what this run cannot show, and why; grows while the report is made."""

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(self.config.networks)

    @property
    def done(self) -> int:
        """Iterations logged."""
        return int(self.iterations["iteration"].max()) + 1 if len(self.iterations) else 0

    @property
    def final(self) -> pd.DataFrame:
        """The newest evaluation of each network."""
        if not len(self.evaluations):
            return self.evaluations
        return self.evaluations.drop_duplicates("network", keep="last")

    @property
    def unsampled(self) -> str:
        """Why something is not in the samples."""
        return OLDER if len(self.samples) else "none were taken yet: log.assignments_interval"

    def of(self, network: str) -> pd.DataFrame:
        """The iterations of one learner."""
        return self.iterations[self.iterations["network"] == network]


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory."""
    return (path / "config.py").is_file() and (path / "data.json").is_file()


def read_run(run_dir: Path) -> RunData:
    """Read a finished, stopped or running run.

    Raises:
        ConfigError: no run directory, or nothing was logged yet.
        CheckpointError: a part of the log is damaged.
    """
    run_dir = run_dir.resolve()
    if not is_run(run_dir):
        raise ConfigError(f"{run_dir}: neither a run directory (config.py, data.json) nor a sweep")
    config = load_config(run_dir / "config.py")
    import_custom(config.custom_imports)
    iterations = read_log(run_dir, "iterations", ("lr", "seconds", "loss_total"))
    if not len(iterations):
        raise ConfigError(
            f"{run_dir}: nothing is logged yet; the first rows come after "
            f"{config.log.flush_interval} iterations (log.flush_interval)"
        )
    evaluations = read_log(run_dir, "evaluations", METRIC_NAMES)
    run = RunData(
        run_dir=run_dir,
        config=config,
        data=load_prepared(run_dir / "data.json"),
        environment=_environment(run_dir),
        iterations=iterations,
        evaluations=evaluations,
        samples=read_log(run_dir, "assignments"),
        detections={},
        checkpoints=tuple(find_checkpoints(run_dir / "checkpoints")),
    )
    _read_detections(run)
    if not len(evaluations):
        run.lacks.append("AP: there was no evaluation yet.")
    return run


def _environment(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "environment.json"
    if not path.is_file():
        return {}
    with damaged_as(ConfigError, path, "remove it"):
        content = read_object(path)
        if not isinstance(content.get("versions", {}), dict):
            raise TypeError("versions is no object")
    return content


def _read_detections(run: RunData) -> None:
    """Detections that belong to the newest evaluation; older ones would mislead."""
    if not len(run.evaluations):
        return
    newest = run.final.set_index("network")["iteration"]
    for name in newest.index:
        found = read_detections(run.run_dir, name)
        if found is not None and found[1] == newest[name]:
            run.detections[name] = found[0]
    if not run.detections:
        run.lacks.append(
            f"Kinds of errors, predictions: no detections are kept ({OLDER}). "
            "`colad eval RUN --errors` computes the errors anew."
        )


def checkpoint_iteration(path: Path) -> int:
    """Optimizer steps done at a checkpoint."""
    return read_state(path).iteration
