"""How a trial stands, in a file of its run directory that survives every process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.config_file import from_mapping
from orchestrator.errors import ConfigError
from orchestrator.json_files import damaged_as, read_object

STATUS_FILE = "trial.json"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """The end of a trial."""

    outcome: str
    """``finished``; ``failed``: an error that another try would meet again; ``stopped`` by the
    scheduler."""
    reason: str = ""
    seconds: float = 0.0
    """Wall-clock time of the process that ended it."""


def read_status(run_dir: Path) -> TrialStatus | None:
    """The end of a trial, or None while it has none."""
    path = run_dir / STATUS_FILE
    if not path.is_file():
        return None
    with damaged_as(ConfigError, path, "remove it: the trial then counts as unfinished"):
        return from_mapping(TrialStatus, read_object(path))


def write_status(run_dir: Path, status: TrialStatus) -> None:
    """Note the end of a trial, whole or not at all."""
    temporary = run_dir / f"{STATUS_FILE}.tmp"
    temporary.write_text(json.dumps(asdict(status)), encoding="utf-8")
    temporary.replace(run_dir / STATUS_FILE)
