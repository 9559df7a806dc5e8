"""Environment of our runs: Ray's, set before Ray is imported first, and that of notebooks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; we show the run ourselves
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # its CSV, JSON and TensorBoard files; likewise
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def quiet_environment() -> None:
    """Leave what the user has set; set the rest."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)


def below_notebook(environment: Mapping[str, str]) -> bool:
    """Whether a cell of a notebook started this process: its kernel sets one of these or both."""
    return "JPY_PARENT_PID" in environment or "inline" in environment.get("MPLBACKEND", "")


BELOW_NOTEBOOK = below_notebook(os.environ)
"""As this process began, before ``leave_notebook``."""


def leave_notebook() -> None:
    """Forget the kernel's backend of figures, which may not be installed here; we write files."""
    if BELOW_NOTEBOOK:
        os.environ["MPLBACKEND"] = "agg"
