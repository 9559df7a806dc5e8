"""Watching a run from its directory alone."""

from __future__ import annotations

import fcntl
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.errors import ConfigError
from orchestrator.live_view import LiveView, Progress
from orchestrator.watch import SILENT_S, ProgressFile, is_driven, read_progress, watch

PROGRESS = Progress(
    status="training",
    iteration=100,
    max_iterations=400,
    seconds_per_iteration=0.2,
    networks={"r18": dict(losses={"total": 0.5}, lr=0.01)},
    taught={"r18": 1.0},
    evaluations={"r18": dict(AP=40.0, AP50=math.nan, iteration=100)},
)


class Clock:
    """Time that passes only in ``sleep``; what happens meanwhile is scripted."""

    def __init__(self, *events: object) -> None:
        self.now, self.events = 1000.0, list(events)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.events:
            event = self.events.pop(0)
            if callable(event):
                event()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.py").touch()
    return tmp_path


def lines_of(run: Path, clock: Clock) -> tuple[list[str], str]:
    file = io.StringIO()
    with LiveView(Console(file=file, width=100), title="run", clock=clock) as view:
        end = watch(run, view, clock=clock, sleep=clock.sleep)
    return file.getvalue().splitlines(), end.outcome


def test_the_file_gives_the_progress_back(run: Path) -> None:
    assert read_progress(run) is None
    clock = Clock()
    file = ProgressFile(run, clock)
    file.write(PROGRESS)
    report = read_progress(run)
    assert report is not None and report.outcome == "" and report.written_s == 1000.0
    assert report.progress.networks == PROGRESS.networks
    file.write(replace(PROGRESS, iteration=101))
    assert read_progress(run).progress.iteration == 100, "once a second"
    clock.now += 1
    file.write(replace(PROGRESS, iteration=101))
    assert read_progress(run).progress.iteration == 101
    file.write(replace(PROGRESS, iteration=102), "finished")  # an end is never held back
    assert read_progress(run).outcome == "finished"


def test_it_follows_to_the_end(run: Path) -> None:
    clock = Clock()
    file = ProgressFile(run, clock)
    file.write(PROGRESS)
    later = replace(PROGRESS, iteration=400, evaluations={"r18": dict(AP=41.0, iteration=400)})
    clock.events += [None, None, lambda: file.write(later, "finished")]
    lines, outcome = lines_of(run, clock)
    assert outcome == "finished"
    assert lines[0] == "run" and lines[1].startswith("100/400") and "r18 0.500 (100%)" in lines[1]
    assert any(line.startswith("400/400") for line in lines)
    assert "evaluation after iteration 400: r18  AP 41.0  AP50 -" in lines


def test_a_launcher_that_is_gone_is_noticed(run: Path) -> None:
    clock = Clock()
    ProgressFile(run, clock).write(PROGRESS)
    _, outcome = lines_of(run, clock)
    assert outcome == "" and clock.now >= 1000 + SILENT_S


def test_a_silent_launcher_that_holds_the_lock_is_waited_for(run: Path) -> None:
    clock = Clock()
    file = ProgressFile(run, clock)
    file.write(PROGRESS)
    with open(run / ".lock", "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert is_driven(run)
        clock.events += [None] * 200 + [lambda: file.write(PROGRESS, "stopped")]
        assert lines_of(run, clock)[1] == "stopped"
    assert not is_driven(run)


def test_a_run_that_is_about_to_begin_is_waited_for(tmp_path: Path) -> None:
    """The launcher holds the lock before it has checked the data and written config.py."""
    clock = Clock()
    with open(tmp_path / ".lock", "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        clock.events += [None, lambda: ProgressFile(tmp_path, clock).write(PROGRESS, "finished")]
        assert lines_of(tmp_path, clock)[1] == "finished"
    given_up = Clock()
    with pytest.raises(ConfigError, match="not a run directory"):
        lines_of(tmp_path, given_up)


def test_another_machines_clock_may_be_wrong(run: Path) -> None:
    """A launcher that writes is alive, whatever time it thinks it is."""
    clock = Clock()
    behind = ProgressFile(run, lambda: clock.now - 3600)
    behind.write(PROGRESS)
    writes = [lambda i=i: behind.write(replace(PROGRESS, iteration=i)) for i in range(101, 200)]
    clock.events += [*writes, lambda: behind.write(PROGRESS, "finished")]
    assert lines_of(run, clock)[1] == "finished"


def test_nothing_to_watch(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        lines_of(tmp_path / "elsewhere", Clock())
    with pytest.raises(ConfigError, match="nobody is training"):
        lines_of(run, Clock())
    (run / "progress.json").write_text('{"time": 1}')
    with pytest.raises(ConfigError, match="cannot be read"):
        lines_of(run, Clock())
