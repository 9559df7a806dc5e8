"""Experiment trackers that a sweep reports to on request: MLflow, Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError

WANDB_KEY, WANDB_MODE = "WANDB_API_KEY", "WANDB_MODE"


@dataclass(frozen=True, kw_only=True)
class Trackers:
    """Where to report to; None: not at all."""

    mlflow: str | None = None
    """Tracking URI."""
    wandb: str | None = None
    """Project."""

    def check(self) -> None:
        """Ask for the libraries and for what they need.

        Raises:
            ConfigError: naming the extra to install, what is missing, or who does not answer.
        """
        for name, wanted in (("mlflow", self.mlflow), ("wandb", self.wandb)):
            if wanted is None:
                continue
            if not wanted.strip():
                raise ConfigError(f"--{name} '': give its {_MEANING[name]}")
            if importlib.util.find_spec(name) is None:
                raise ConfigError(f"--{name}: not installed; pip install 'colad[{name}]'")
        if self.mlflow is not None:
            _ask_mlflow(self.mlflow)
        if self.wandb is not None and not _wandb_can_log_in():
            raise ConfigError(
                f"--wandb: nobody is logged in; `wandb login`, or {WANDB_KEY}, or "
                "WANDB_MODE=offline to keep the records on this machine"
            )

    def callbacks(self, sweep_dir: Path, *, changing: bool) -> list[Any]:
        """Tune's callbacks.

        Args:
            sweep_dir: names the experiment and the group.
            changing: a population's parameters change, and MLflow takes them once: at the end.
        """
        found: list[Any] = []
        if self.mlflow is not None:
            from ray.air.integrations.mlflow import MLflowLoggerCallback

            found.append(
                MLflowLoggerCallback(
                    tracking_uri=self.mlflow,
                    experiment_name=sweep_dir.name,
                    log_params_on_trial_end=changing,
                )
            )
        if self.wandb is not None:
            from ray.air.integrations.wandb import WandbLoggerCallback

            # in an actor of its own, to which a cluster does not hand this process's environment
            mode = {"mode": os.environ[WANDB_MODE]} if WANDB_MODE in os.environ else {}
            found.append(WandbLoggerCallback(project=self.wandb, group=sweep_dir.name, **mode))
        return found


_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_MEANING = {"mlflow": "tracking URI", "wandb": "project"}


def _ask_mlflow(uri: str) -> None:
    """Look whether the server answers; by itself MLflow would go on asking for minutes."""
    import mlflow

    before = {name: os.environ.get(name) for name in _PATIENCE}
    os.environ.update(_PATIENCE)
    try:
        mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except mlflow.exceptions.MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--mlflow {uri}: cannot be used: {reason}") from error
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _wandb_can_log_in() -> bool:
    """Whether W&B will start without asking anybody."""
    if os.environ.get(WANDB_MODE) in ("offline", "disabled") or os.environ.get(WANDB_KEY):
        return True
    try:
        return "api.wandb.ai" in (Path.home() / ".netrc").read_text(encoding="utf-8")
    except OSError:
        return False
