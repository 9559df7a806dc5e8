"""What a person sees while networks train: a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from textwrap import wrap
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.quiet import BELOW_NOTEBOOK

_WIDEST_PANEL = 110
_LINE_EVERY_S = 10.0
"""Seconds between two plain lines in the first minutes."""
_LATER_EVERY_S = 60.0
_FIRST_MINUTES_S = 300.0
_NO_BREAK = "\u00a0"
_LOSS_WIDTH = 7
_OTHER_WIDTH = 38
"""Width of a table row's cells other than the name and the losses, with their gaps and frame."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run at one moment, in plain Python values (it travels between processes)."""

    status: str = "starting"
    """One word: starting, training, evaluating, saving ..."""
    iteration: int = 0
    """Iterations done."""
    max_iterations: int = 0
    epoch: int = 0
    seconds_per_iteration: float = 0.0
    """Median of recent iterations; 0 before the first."""
    images_per_second: float = 0.0
    eta_s: float = 0.0
    """Seconds that are left at this pace."""
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Learner's name to its last ``losses`` (name to float) and ``lr``."""
    taught: Mapping[str, float] = field(default_factory=dict)
    """Network's name to the share (0..1) of recent decisions in which it was the teacher."""
    evaluations: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Network's name to its last ``AP``, ``AP50`` (percent) and the ``iteration`` they are of."""
    retries: int = 0
    """Restarts from a checkpoint so far."""
    message: str = ""
    """What the run waits for, if anything."""


def can_animate(console: Console, notebook: bool = BELOW_NOTEBOOK) -> bool:
    """Whether lines can be drawn over: on a terminal whose cursor goes back.

    Not so in pipes and files, even where FORCE_COLOR makes rich call them terminals, nor below a
    cell of a notebook: Jupyter runs its commands in a pseudo-terminal and shows what they print as
    it comes.
    """
    if notebook or console.is_jupyter or console.is_dumb_terminal:
        return False
    return console.is_terminal and console.file.isatty()


class LiveView:
    """Shows ``Progress`` until the ``with`` block ends.

    Args:
        console: where to; anything but an interactive terminal gets plain lines.
        title: names the run.
        clock: seconds, for tests.
    """

    def __init__(
        self, console: Console, title: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._title, self._clock = console, title, clock
        self._animated = can_animate(console)
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._evaluated: dict[str, float] = {}
        """Iteration of the evaluation last shown, per network."""
        self._line_iteration = 0
        self._line_s = -math.inf
        self._started_s = clock()

    def __enter__(self) -> LiveView:
        if self._animated:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=4
            )
            self._live.start()
        else:
            self._say(self._title)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, progress: Progress) -> None:
        """Show a later moment of the run."""
        previous, self._progress = self._progress, progress
        if not self._animated:
            if self._line_is_due(progress):
                self._say("  ".join(_unbreakable(part) for part in progress_facts(progress)))
                self._line_iteration, self._line_s = progress.iteration, self._clock()
            if progress.message and (previous is None or progress.message != previous.message):
                self._say(progress.message)
        for name, metrics in progress.evaluations.items():
            at = metrics.get("iteration", progress.iteration)
            old = previous is None and at < progress.iteration  # of before this view began
            if self._evaluated.get(name) != at and not old:
                self._say(evaluation_line(name, metrics))
            self._evaluated[name] = at

    def message(self, text: str) -> None:
        """Tell something once; on a terminal it stays above the panel."""
        self._say(text)

    def _say(self, text: str) -> None:
        """Print lines no wider than the console; paths and brackets in them stay as they are."""
        lines = [
            part
            for line in text.splitlines()
            for part in wrap(line, self._console.width, subsequent_indent="  ") or [""]
        ]
        self._console.print(Text("\n".join(lines).replace(_NO_BREAK, " ")), soft_wrap=True)

    def _line_is_due(self, progress: Progress) -> bool:
        """First and last iteration, every 10 %, and every 10 s (every minute in long runs)."""
        done = progress.iteration
        if done < self._line_iteration:  # restarted from a checkpoint
            self._line_iteration = done
        if done == self._line_iteration:
            return False
        if self._line_iteration == 0 or done == progress.max_iterations:
            return True
        now = self._clock()
        early = now - self._started_s < _FIRST_MINUTES_S
        waited = now - self._line_s >= (_LINE_EVERY_S if early else _LATER_EVERY_S)
        return waited or done - self._line_iteration >= 0.1 * progress.max_iterations

    def _render(self) -> RenderableType:
        width = min(self._console.width, _WIDEST_PANEL)
        title = Text(self._title, overflow="ellipsis", no_wrap=True)
        if self._progress is None:
            return Panel(Text("starting ...", style="dim"), title=title, width=width)
        return render_panel(self._progress, title, width)


def render_panel(progress: Progress, title: Text, width: int) -> Panel:
    """The panel of a terminal, ``width`` columns wide."""
    total = max(progress.max_iterations, 1)
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    bar.add_row(
        ProgressBar(total=total, completed=progress.iteration),
        f"{progress.iteration}/{progress.max_iterations}  {progress.iteration / total:.0%}",
    )
    facts = [progress.status, f"epoch {progress.epoch}"]
    if progress.seconds_per_iteration:
        facts.append(f"{progress.seconds_per_iteration:.3g} s/it")
        facts.append(f"{progress.images_per_second:.3g} img/s")
        facts.append(f"{duration(progress.eta_s)} left")
    if progress.retries:
        facts.append(f"{progress.retries} restart{'s' * (progress.retries > 1)}")
    parts: list[RenderableType] = [bar, _one_line("  ".join(facts))]
    names = _names(progress)
    if names:
        parts.append(_network_table(progress, names, width))
    if progress.message:
        parts.append(_one_line(progress.message))
    return Panel(Group(*parts), title=title, width=width)


def _one_line(text: str) -> Text:
    return Text(text, overflow="ellipsis", no_wrap=True)


def _names(progress: Progress) -> list[str]:
    """Every network that something is known of, learners first."""
    return list(dict.fromkeys([*progress.networks, *progress.taught, *progress.evaluations]))


def _network_table(progress: Progress, names: list[str], width: int) -> Table:
    """One row per network; as many losses as fit, the total last."""
    losses = list(
        dict.fromkeys(n for network in progress.networks.values() for n in network["losses"])
    )
    name_width = min(max(map(len, [*names, "network"])), 16)
    losses = _fitting(losses, width - _OTHER_WIDTH - name_width)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0, collapse_padding=True)
    table.add_column("network", width=name_width, no_wrap=True, overflow="ellipsis")
    for loss in losses:
        table.add_column(
            loss, justify="right", max_width=_LOSS_WIDTH, no_wrap=True, overflow="ellipsis"
        )
    for title in ("lr", "taught", "AP", "AP50", "at"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in names:
        network = progress.networks.get(name, {})
        values = network.get("losses", {})
        metrics = progress.evaluations.get(name, {})
        taught = progress.taught.get(name)
        table.add_row(
            name,
            *(_loss(values.get(loss)) for loss in losses),
            f"{network['lr']:.1e}" if "lr" in network else "frozen",
            "-" if taught is None else f"{taught:.0%}",
            _percent(metrics.get("AP")),
            _percent(metrics.get("AP50")),
            f"{metrics['iteration']:.0f}" if "iteration" in metrics else "-",
        )
    return table


def _fitting(losses: list[str], width: int) -> list[str]:
    """The losses whose columns fit: the total and the first others, in their order."""
    order = sorted(losses, key=lambda name: name != "total")
    shown: set[str] = set()
    for name in order:
        width -= min(max(len(name), _LOSS_WIDTH - 1), _LOSS_WIDTH) + 1
        if width < 0 and shown:
            break
        shown.add(name)
    return [name for name in losses if name in shown]


def progress_facts(progress: Progress) -> list[str]:
    """For a plain line: where the run stands, each network's total loss and share of teaching."""
    total = max(progress.max_iterations, 1)
    parts = [
        f"{progress.iteration:>{len(str(total))}}/{total}",
        f"epoch {progress.epoch}",
        f"{progress.seconds_per_iteration:.3g} s/it",
        f"ETA {duration(progress.eta_s)}",
    ]
    for name in _names(progress):
        known = [name]
        if name in progress.networks:
            losses = progress.networks[name]["losses"]
            known.append(_loss(losses.get("total", sum(losses.values()))))
        if name in progress.taught:
            known.append(f"({progress.taught[name]:.0%})")
        if len(known) > 1:
            parts.append(" ".join(known))
    return parts


def evaluation_line(name: str, metrics: Mapping[str, float]) -> str:
    """One plain line for one network's evaluation."""
    at = f" after iteration {metrics['iteration']:.0f}" if "iteration" in metrics else ""
    values = "  ".join(f"{key} {_percent(metrics.get(key))}" for key in ("AP", "AP50"))
    return f"evaluation{at}: {name}  {values}"


def duration(seconds: float) -> str:
    """``1:02:03``, with days in front where there are any."""
    whole = round(seconds) if math.isfinite(seconds) else 0
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}d {clock}" if days else clock


def _unbreakable(text: str) -> str:
    return text.replace(" ", _NO_BREAK)


def _loss(value: float | None) -> str:
    """At most seven characters."""
    if value is None:
        return "-"
    if abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if abs(value) < 1e4 else f"{value:.0e}"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"
