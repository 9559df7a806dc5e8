"""What a controller says of the error that ended its trial."""

from __future__ import annotations

import errno
from pathlib import Path

from orchestrator.controller import reason_of
from orchestrator.errors import DataError


def test_the_user_s_errors_are_a_line_and_bugs_a_traceback() -> None:
    run_dir = Path("runs/x")
    assert reason_of(DataError("no image"), run_dir) == "DataError: no image"
    full = OSError(errno.ENOSPC, "No space left on device", "runs/x/processes.json")
    assert reason_of(full, run_dir) == (
        "runs/x/processes.json: No space left on device; make room there"
    )
    assert reason_of(OSError(errno.EDQUOT, "Disk quota exceeded"), run_dir).startswith("runs/x: ")
    for bug in (OSError(errno.EIO, "Input/output error", "y"), ZeroDivisionError("by zero")):
        try:
            raise bug
        except Exception as error:
            text = reason_of(error, run_dir)
        assert text.startswith("Traceback") and text.endswith(f"{bug}\n")
        assert "raise bug" in text
