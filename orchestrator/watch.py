"""``colad watch``: the live view of a run that another process drives, from its directory alone.

The launcher keeps ``progress.json`` fresh, so a watcher needs no Ray and may sit on any machine
that sees the directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.config_file import from_mapping
from orchestrator.errors import ConfigError
from orchestrator.json_files import damaged_as, read_object
from orchestrator.live_view import LiveView, Progress

PROGRESS_FILE = "progress.json"
WRITE_EVERY_S = 1.0
SILENT_S = 30.0
"""A launcher that has written nothing for so long is looked for by its lock."""
POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Report:
    """What ``progress.json`` says."""

    written_s: float
    """Seconds since 1970."""
    outcome: str
    """Empty while the run goes on; then finished, stopped or failed."""
    error: str
    progress: Progress


class ProgressFile:
    """The launcher's side: writes the newest progress, at most once a second.

    Args:
        run_dir: of the run.
        clock: seconds since 1970, for tests.
    """

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = Path(run_dir) / PROGRESS_FILE, clock
        self._written_s, self._outcome = -1e9, ""

    def write(self, progress: Progress | None, outcome: str = "", error: str = "") -> None:
        """Also where nothing has changed: a watcher sees by it that the launcher lives."""
        now = self._clock()
        if outcome == self._outcome and now - self._written_s < WRITE_EVERY_S:
            return
        shown = asdict(Progress() if progress is None else progress)
        content = {"time": now, "outcome": outcome, "error": error, "progress": shown}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            os.replace(temporary, self.path)
        except OSError:
            return  # a full disk ends the run elsewhere; the view alone must not
        self._written_s, self._outcome = now, outcome


def read_progress(run_dir: Path) -> Report | None:
    """The newest report, or None before the first.

    Raises:
        ConfigError: the file is of another version or damaged.
    """
    path = Path(run_dir) / PROGRESS_FILE
    with damaged_as(ConfigError, path, "or of another version of colad; remove it"):
        try:
            content = read_object(path)
        except FileNotFoundError:
            return None
        return Report(
            written_s=float(content["time"]),
            outcome=str(content["outcome"]),
            error=str(content["error"]),
            progress=from_mapping(Progress, content["progress"], "progress"),
        )


def watch(
    run_dir: Path,
    view: LiveView,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Any] = time.sleep,
) -> Report:
    """Show a run until it ends.

    Args:
        run_dir: of the run; it need not be this process's, nor this machine's.
        view: where to.

    Returns:
        The last report; its outcome is empty where the launcher is gone without having said how.

    Raises:
        ConfigError: no run directory, or nobody is training it.
    """
    if not (run_dir / "config.py").is_file() and not is_driven(run_dir):  # or about to begin
        raise ConfigError(f"{run_dir}: not a run directory (no config.py)")
    written_s, heard_s = 0.0, clock()  # heard by this clock: the launcher's machine may differ
    while True:
        report = read_progress(run_dir)
        if report is not None and report.written_s != written_s:
            view.update(report.progress)
            written_s, heard_s = report.written_s, clock()
        if report is not None and report.outcome:
            return report
        silent = report is None or clock() - heard_s >= SILENT_S
        if silent and not is_driven(run_dir):
            if report is None:
                raise ConfigError(
                    f"{run_dir}: nobody is training it (or a version without {PROGRESS_FILE} is); "
                    "`colad train CONFIG --resume --work-dir` goes on with it"
                )
            return report
        sleep(POLL_S)


def is_driven(run_dir: Path) -> bool:
    """Whether a launcher of this machine holds the run's lock."""
    try:
        with open(run_dir / ".lock") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
