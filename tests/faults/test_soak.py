"""The soak's own test: half a minute of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import Soak

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.ray]


def test_soak_with_killed_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soak = Soak(tmp_path, seed=1)
    soak.run(minutes=0.75, every_s=10)
    done = soak.check()
    soak.compare(done)
    assert done >= 200 and soak.kills
    with capsys.disabled():
        print(f"\n{done} iterations, killed: {soak.kills}\n{soak.table()}")
