"""What the live view prints, on a terminal and in a pipe, never wider than the console."""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

from orchestrator.live_view import LiveView, Progress, can_animate, duration, render_panel
from orchestrator.quiet import below_notebook

LOSSES = {"cls": 0.5123, "bbox": 1.25, "iou": 123.456, "total": 125.2}
PROGRESS = Progress(
    status="training",
    iteration=12500,
    max_iterations=90000,
    epoch=11,
    seconds_per_iteration=0.4123,
    images_per_second=19.4,
    eta_s=31953.25,
    networks={n: dict(losses=LOSSES, lr=0.01) for n in ("r50", "r101")},
    taught={"r50": 0.48, "r101": 0.52},
    evaluations={n: dict(AP=43.12, AP50=70.0, iteration=11000) for n in ("r50", "r101")},
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _plain(width: int = 80) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width), file


def _at(iteration: int, **changes: object) -> Progress:
    return replace(PROGRESS, iteration=iteration, evaluations={}, **changes)  # type: ignore[arg-type]


def _panel(progress: Progress, width: int) -> list[str]:
    console, file = _plain(width)
    console.print(render_panel(progress, Text("colad_shapes -> runs/demo"), width))
    return file.getvalue().splitlines()


def test_progress_travels_between_processes() -> None:
    assert pickle.loads(pickle.dumps(PROGRESS)) == PROGRESS
    assert pickle.loads(pickle.dumps(Progress())) == Progress()


def test_panel_shows_everything_in_80_columns() -> None:
    lines = _panel(PROGRESS, 80)
    assert {len(line) for line in lines} == {80}
    text = "\n".join(lines)
    for shown in ("12500/90000  14%", "epoch 11", "0.412 s/it", "19.4 img/s", "8:52:33 left"):
        assert shown in text
    rows = [line.strip("│ ").split() for line in lines]
    assert "network cls bbox iou total lr taught AP AP50 at".split() in rows
    assert "r50 0.512 1.250 123.5 125.2 1.0e-02 48% 43.1 70.0 11000".split() in rows
    assert "r101 0.512 1.250 123.5 125.2 1.0e-02 52% 43.1 70.0 11000".split() in rows
    assert len(lines) == 8 and "…" not in text, "nothing wraps, nothing is cut"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_panel_never_wraps(width: int) -> None:
    names = ("r50", "a_network_with_a_long_name", "third")
    losses = {f"loss_number_{i}": 1e6 * (i - 3) for i in range(12)} | {"total": math.nan}
    progress = replace(
        PROGRESS,
        networks={n: dict(losses=losses, lr=1e-5) for n in names},
        message="waiting for " + "GPUs " * 50,
        retries=3,
    )
    lines = _panel(progress, width)
    assert {len(line) for line in lines} == {width}
    assert len(lines) == 4 + 2 + 4 + 1  # frame, bar, facts; head; three networks and r101; message
    if width >= 80:
        assert any("total" in line for line in lines)


def test_frozen_teacher_and_missing_numbers_have_a_row() -> None:
    progress = Progress(
        max_iterations=100,
        networks={"student": dict(losses={"cls": 1.0}, lr=0.1)},
        taught={"teacher": 1.0},
        evaluations={"teacher": dict(AP=math.nan, AP50=2.0)},
    )
    rows = [line.strip("│ ").split() for line in _panel(progress, 80)]
    assert "student 1.000 1.0e-01 - - - -".split() in rows
    assert "teacher - frozen 100% - 2.0 -".split() in rows


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def test_terminal_gets_a_panel_and_messages_stay_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.live_view.can_animate", lambda console: True)
    file = io.StringIO()
    console = Console(file=file, width=80, height=30, force_terminal=True, color_system=None)
    with LiveView(console, "[not markup] -> runs/demo") as view:
        view.update(_at(1))
        view.message("r50 was lost: going on from the last checkpoint")
        view.update(replace(PROGRESS, evaluations={"r50": dict(AP=1.5, AP50=2.5, iteration=12500)}))
    out = file.getvalue()
    assert "╭" in out and "[not markup] -> runs/demo" in out
    assert "r50 was lost: going on from the last checkpoint" in out
    assert "evaluation after iteration 12500: r50  AP 1.5  AP50 2.5" in out
    last_panel = out[out.rindex("╭") :]
    assert "12500/90000" in last_panel and "was lost" not in last_panel


@pytest.mark.parametrize(
    ("file", "environment", "animated"),
    [
        (Terminal(), {"TERM": "xterm-256color"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, False),  # a log file of a CI job
        (Terminal(), {"TERM": "xterm-color", "JPY_PARENT_PID": "7"}, False),  # !colad in a cell
        (Terminal(), {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, False),
        (Terminal(), {"TERM": "xterm", "MPLBACKEND": "agg"}, True),
    ],
)
def test_only_terminals_are_drawn_over(
    file: io.StringIO, environment: dict[str, str], animated: bool
) -> None:
    console = Console(file=file, _environ=environment)
    assert can_animate(console, below_notebook(environment)) is animated


def test_pipe_gets_plain_lines() -> None:
    console, file = _plain()
    with LiveView(console, "colad_shapes -> runs/demo", clock=Clock()) as view:
        view.update(_at(1, max_iterations=9000))
        view.message("network [r50] was lost: " + "going on from the last checkpoint " * 4)
    lines = file.getvalue().splitlines()
    assert lines[0] == "colad_shapes -> runs/demo"
    assert lines[1] == (
        "   1/9000  epoch 11  0.412 s/it  ETA 8:52:33  r50 125.2 (48%)  r101 125.2 (52%)"
    )
    assert "network [r50] was lost" in file.getvalue()
    assert max(map(len, lines)) <= 80
    assert not set(file.getvalue()) & set("╭│\x1b\r\u00a0")


def _lines_at(clock: Clock, view: LiveView, file: io.StringIO, iteration: int) -> int:
    before = len(file.getvalue().splitlines())
    view.update(_at(iteration, max_iterations=1000, networks={}, taught={}))
    return len(file.getvalue().splitlines()) - before


def test_plain_lines_come_at_sensible_times() -> None:
    clock = Clock()
    console, file = _plain()
    with LiveView(console, "run", clock=clock) as view:
        assert _lines_at(clock, view, file, 0) == 0
        assert _lines_at(clock, view, file, 1) == 1, "the first iteration"
        clock.now = 5
        assert _lines_at(clock, view, file, 2) == 0
        clock.now = 10
        assert _lines_at(clock, view, file, 3) == 1, "10 s later"
        assert _lines_at(clock, view, file, 3) == 0, "nothing new"
        assert _lines_at(clock, view, file, 102) == 0
        assert _lines_at(clock, view, file, 103) == 1, "10 % further"
        clock.now = 400
        assert _lines_at(clock, view, file, 104) == 1
        clock.now = 430
        assert _lines_at(clock, view, file, 105) == 0, "a line a minute in long runs"
        clock.now = 460
        assert _lines_at(clock, view, file, 106) == 1
        assert _lines_at(clock, view, file, 50) == 0, "restarted from a checkpoint"
        assert _lines_at(clock, view, file, 150) == 1
        assert _lines_at(clock, view, file, 1000) == 1, "the last iteration"


def test_each_evaluation_is_told_once() -> None:
    console, file = _plain()
    with LiveView(console, "run", clock=Clock()) as view:
        view.update(PROGRESS)  # its evaluations are of an earlier part of the run
        assert "evaluation" not in file.getvalue()
        new = dict(AP=44.0, AP50=math.nan, iteration=13000)
        later = replace(PROGRESS, iteration=13000, evaluations={**PROGRESS.evaluations, "r50": new})
        view.update(later)
        view.update(replace(later, iteration=13001))
    lines = [line for line in file.getvalue().splitlines() if "evaluation" in line]
    assert lines == ["evaluation after iteration 13000: r50  AP 44.0  AP50 -"]


def test_waiting_message_is_told_once_in_a_pipe() -> None:
    console, file = _plain()
    with LiveView(console, "run", clock=Clock()) as view:
        for _ in range(3):
            view.update(Progress(message="waiting for 2 GPUs"))
    assert file.getvalue().splitlines() == ["run", "waiting for 2 GPUs"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (59.6, "0:01:00"),
        (3723, "1:02:03"),
        (90061, "1d 1:01:01"),
        (math.inf, "0:00:00"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
