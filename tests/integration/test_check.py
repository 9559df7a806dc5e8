"""`colad check` in a process of its own: nothing is imported or started before it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.runs import CONFIG, ROOT

pytestmark = pytest.mark.ray


def test_check_passes_and_leaves_nothing(small_overrides: Sequence[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "check", str(CONFIG)]
    command += ["--work-dir", str(tmp_path / "run"), "--set", *small_overrides]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("configuration", "training and", "network r18: learner", "Ray has what"):
        assert part in done.stdout
    assert not (tmp_path / "run").exists()
