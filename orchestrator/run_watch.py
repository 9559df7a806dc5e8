"""What the launcher does while Tune runs a training: show it, count losses, turn signals into a
checkpoint, give up."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from orchestrator.config import RunConfig, patience
from orchestrator.errors import NetworkLostError
from orchestrator.live_view import LiveView, Progress
from orchestrator.waiting import ResourceWait, StoreWatch
from orchestrator.watch import ProgressFile

if TYPE_CHECKING:
    from orchestrator.retries import RetryBudget

logger = logging.getLogger(__name__)

STOP_GRACE_S = 60.0
"""How long a run that is asked to stop may take for its checkpoint."""
POLL_S = 0.25


def silence_of(config: RunConfig, num_val: int) -> float | None:
    """How long a controller may say nothing: twice what it gives a network for an evaluation, since
    it computes the metrics itself, and writes checkpoints.

    Args:
        config: of the run.
        num_val: validation images.
    """
    limit = config.resources.hang_timeout
    if limit is None:
        return None
    return 2 * limit * patience(num_val / config.resources.ranks)


@contextmanager
def beside_the_loop(
    watch: Callable[[], None],
    on_signal: Callable[[int, FrameType | None], None],
    done: threading.Event,
) -> Iterator[None]:
    """Run ``watch`` in a thread, and trap SIGINT and SIGTERM, while the body runs Tune's loop.

    Args:
        watch: returns soon after ``done`` is set.
        on_signal: handles the signals.
        done: set when the body ends, by an error, too.
    """
    previous = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=watch, name="colad-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
        for number, handler in previous.items():
            signal.signal(number, handler)


class RunWatcher:
    """Reads the notice board, shows it, and decides when Tune's loop shall end.

    Args:
        run_dir: of the run.
        board: its ``RunMonitor`` actor.
        view: shows the run.
        budget: of restarts.
        wait: for resources.
        silence_s: how long the controller may say nothing; None: for ever.
    """

    def __init__(
        self,
        run_dir: Path,
        board: Any,
        view: LiveView,
        budget: RetryBudget,
        wait: ResourceWait,
        silence_s: float | None,
    ) -> None:
        self.run_dir, self.board, self.view = run_dir, board, view
        self.file, self.budget, self.wait = ProgressFile(run_dir), budget, wait
        self.store = StoreWatch(view.message)
        self.silence_s = silence_s
        self._controller: Any = None
        self._heard_s = 0.0
        self.progress: Progress | None = None
        self.outcome, self.error = "", ""
        self.given_up = ""
        """Why, where the launcher ended the run."""
        self.signal: int | None = None
        """The first that came."""
        self._signalled_s = 0.0
        self._done = threading.Event()

    # -- what Tune tells (``retries.Watched``) --------------------------------------------------

    def run_dir_of(self, trial: str) -> Path:
        return self.run_dir

    def started(self, trial: str, controller: Any) -> None:
        self.wait.end()
        self._heard_s, self._controller = time.monotonic(), controller

    def lost(self, trial: str, cause: BaseException) -> bool:
        self._controller = None
        if not isinstance(cause, NetworkLostError):
            self.given_up = f"the controller failed: {type(cause).__name__}: {cause}"
        elif not self.budget.spend(cause):
            self.given_up = self.budget.given_up(cause)
        else:
            self.view.message(self.budget.going_on(cause))
            self.wait.begin()
        return not self.given_up

    def ended(self, trial: str, *, error: bool) -> None:
        self.wait.end()
        self._controller = None

    # -- while it runs --------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch while the body runs, with SIGINT and SIGTERM trapped."""
        self.wait.begin()
        with beside_the_loop(self._watch, self._on_signal, self._done):
            yield
        self._read()
        if self.given_up and not self.outcome:
            self.file.write(self.progress, "failed", self.given_up)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # asked twice: do not wait for the checkpoint
            os.kill(os.getpid(), signal.SIGUSR1)
            return
        self._signalled_s, self.signal = time.monotonic(), number

    def _watch(self) -> None:
        asked = False
        while not self._done.wait(POLL_S):
            self._read()
            self.given_up = self.given_up or self.wait.check()
            self.store.check(time.monotonic())
            self._check_controller(time.monotonic())
            if self.signal is not None and not asked:
                asked = True
                self.view.message("stopping: writing a checkpoint first")
                self.board.request_stop.remote()
            late = asked and time.monotonic() - self._signalled_s > STOP_GRACE_S
            if self.outcome in ("stopped", "failed") or self.given_up or late:
                # Tune ends its loop at this signal and leaves the trial unfinished, to be resumed.
                os.kill(os.getpid(), signal.SIGUSR1)
                return

    def _check_controller(self, now: float) -> None:
        """Kill a controller that is silent for too long; Tune sees that, and starts another."""
        import ray

        silent_s = now - self._heard_s
        controller = self._controller
        if controller is None or self.silence_s is None or silent_s < self.silence_s:
            return
        self._controller = None
        self.view.message(f"the controller has said nothing for {silent_s:.0f} s: killed")
        ray.kill(controller)

    def _read(self) -> None:
        import ray

        try:
            notice = ray.get(self.board.read.remote(), timeout=30)
        except ray.exceptions.RayError as error:
            logger.warning("the notice board does not answer: %s", error)
            return
        for text in notice.messages:
            self.view.message(text)
        shown = notice.progress and dataclasses.replace(
            notice.progress, retries=self.budget.restarts
        )
        if notice.messages or shown != self.progress:
            self._heard_s = time.monotonic()
        if shown is not None and shown != self.progress:
            self.progress = shown
            self.view.update(shown)
        self.outcome, self.error = notice.outcome, notice.error
        self.file.write(self.progress, self.outcome, self.error)
