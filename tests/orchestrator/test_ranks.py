"""Two ranks of every method, of which one has no GT: no parameter is left out of the gradients."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ranks import free_address
from tests.orchestrator.rank_cases import cases
from tests.support.runs import ROOT

pytestmark = pytest.mark.slow

LIMIT_S = 600.0
"""Of one pair of processes, which works off all cases unless one fails."""


def run_pair(names: list[str], folder: Path) -> None:
    """Both ranks on ``names``, one after the other, to the end or to the first error of either."""
    address = free_address("127.0.0.1")
    module = [sys.executable, "-m", "tests.orchestrator.rank_cases"]
    ranks = []
    for rank in (0, 1):
        with (folder / f"{rank}.log").open("w") as log:
            command = [*module, str(rank), address, str(folder), *names]
            ranks.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))
    deadline = time.monotonic() + LIMIT_S
    try:
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
            if any(rank.poll() not in (None, 0) for rank in ranks):
                time.sleep(1.0)  # the other one may just be writing its own error
                break
            time.sleep(0.1)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, list[dict[str, Any]]]:
    """Per case, what the ranks left (rank 0 first); after an error new processes do the rest."""
    folder = tmp_path_factory.mktemp("ranks")
    asked = {item.name for item in request.session.items}
    left = [
        name for name in cases() if f"{test_a_rank_without_ground_truths.__name__}[{name}]" in asked
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    while left:
        run_pair(left, folder)
        for name in left:
            files = [folder / f"{name}.{rank}.json" for rank in (0, 1)]
            found[name] = [json.loads(file.read_text()) for file in files if file.is_file()]
            if len(found[name]) < 2 or any("error" in result for result in found[name]):
                break
        if not found[left[0]]:
            logs = [(folder / f"{rank}.log").read_text()[-2000:] for rank in (0, 1)]
            found[left[0]] = [dict(error=f"no result:\n{log}") for log in logs]
        left = [name for name in left if name not in found]
    return found


@pytest.mark.parametrize("name", cases())
def test_a_rank_without_ground_truths(
    outcomes: Mapping[str, list[dict[str, Any]]], name: str
) -> None:
    results = outcomes[name]
    assert [r["error"] for r in results if "error" in r] == []
    first, second = results
    assert first["learners"] and first["moved"] == second["moved"] == first["learners"]
    assert first["finite"] == second["finite"] == first["networks"]
    assert first["weights"] == second["weights"]
    for step in (*first["losses"], *second["losses"]):
        assert step and all(math.isfinite(total) for total in step.values())
