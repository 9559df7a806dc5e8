"""What the launcher does while a run goes on, without a run."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from rich.console import Console

from orchestrator.config import ResourceConfig
from orchestrator.config_file import load_config
from orchestrator.errors import NetworkLostError
from orchestrator.live_view import LiveView
from orchestrator.retries import RetryBudget
from orchestrator.run_watch import RunWatcher, silence_of
from orchestrator.sweep.status import FAILED, read_status
from orchestrator.sweep.watch import Watcher
from tests.support.runs import CONFIG


@pytest.fixture
def printed() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def watcher(printed: io.StringIO, tmp_path: Path) -> RunWatcher:
    budget = RetryBudget(ResourceConfig(max_retries=1))
    wait: Any = SimpleNamespace(begin=lambda: None, end=lambda: None)
    view = LiveView(Console(file=printed, width=200), title="test")
    return RunWatcher(tmp_path, None, view, budget, wait, 100.0)


def test_silent_controller_is_killed_once(
    watcher: RunWatcher, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    watcher.started("trial", "its controller")
    began = watcher._heard_s
    watcher._check_controller(began + 99)
    assert not killed
    watcher._check_controller(began + 101)
    watcher._check_controller(began + 102)
    assert killed == ["its controller"] and "said nothing for 101 s" in printed.getvalue()


def test_losses_are_told_and_too_many_end_the_run(
    watcher: RunWatcher, printed: io.StringIO
) -> None:
    assert watcher.lost("trial", NetworkLostError("network 'a'", "killed"))
    assert "network 'a' was lost: killed; going on from the last" in printed.getvalue()
    assert not watcher.lost("trial", NetworkLostError("network 'b'", "killed"))
    assert watcher.given_up.startswith("given up after 1 restart(s): network 'b' was lost")


def test_an_error_of_the_controller_is_not_tried_again(watcher: RunWatcher) -> None:
    assert not watcher.lost("trial", KeyError("x"))
    assert watcher.given_up == "the controller failed: KeyError: 'x'"


def test_silence_grows_with_the_evaluation() -> None:
    config = load_config(CONFIG, ["resources.hang_timeout=60"])
    assert silence_of(config, 0) == 120 and silence_of(config, 5000) == 120 * 11
    assert silence_of(load_config(CONFIG, ["resources.hang_timeout=None"]), 10) is None


def test_a_trial_of_a_sweep_has_budgets_of_its_own(tmp_path: Path) -> None:
    said: list[str] = []
    layout: Any = SimpleNamespace(trial_dir=lambda trial: tmp_path)
    wait: Any = SimpleNamespace(begin=lambda: None, end=lambda: None)
    watcher = Watcher(layout, 1, said.append, wait)
    config = SimpleNamespace(resources=ResourceConfig(max_retries=1))
    trial: Any = SimpleNamespace(config=config, params={}, seed=0)
    watcher.trials["t1"] = trial
    watcher.started("t1", None)
    loss = NetworkLostError("network 'a'", "killed")
    assert watcher.lost("t1", loss) and "going on from the last checkpoint" in said[0]
    assert not watcher.lost("t1", loss)
    watcher.ended("t1", error=True)
    status = read_status(tmp_path)
    assert status is not None and status.outcome == FAILED
    assert status.reason.startswith("given up after 1 restart(s): network 'a'")
    assert "1/1  t1  failed" in said[1]


def test_an_error_of_a_trial_is_not_tried_again(tmp_path: Path) -> None:
    layout: Any = SimpleNamespace(trial_dir=lambda trial: tmp_path)
    wait: Any = SimpleNamespace(begin=lambda: None, end=lambda: None)
    assert not Watcher(layout, 1, print, wait).lost("t1", ValueError("x"))
