"""The checkpoints of one run: written one after the other, few of them kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from orchestrator.checkpoints import (
    CheckpointState,
    find_checkpoints,
    read_state,
    write_checkpoint,
)
from orchestrator.config import RunConfig
from orchestrator.mirror import Mirror, check_uri
from orchestrator.runlog import read_log

Scores = Callable[[], Mapping[int, float]]
"""Iteration -> how good the networks were then; higher is better."""


class CheckpointStore:
    """Writes into one folder, and removes there what need not be kept.

    A checkpoint is removed only after a later one lies whole on the disk.

    Args:
        folder: of the checkpoints.
        keep: how many of the newest stay.
        keep_best: how many of the best stay, too.
        scores: asked after every write; those of evaluations that have been made.
        mirror: keeps a copy elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        keep_best: int = 0,
        scores: Scores = dict,
        mirror: Mirror | None = None,
    ) -> None:
        self.folder, self.keep, self.keep_best, self._scores = folder, keep, keep_best, scores
        self.mirror = mirror

    def save(self, parts: Mapping[str, bytes], state: CheckpointState) -> None:
        """Write one, whole or not at all, then remove the superfluous.

        Raises:
            CheckpointError: it cannot be written; everything else is as it was. Or it is written,
                and the copy of the one before has failed.
        """
        write_checkpoint(self.folder / f"checkpoint_{state.iteration:09d}", parts, state)
        if self.mirror is None:
            self._prune(state.iteration)
            return
        try:
            self.mirror.wait()  # what is being copied must not be removed
        finally:
            self._prune(state.iteration)
            self.mirror.push()

    def close(self) -> None:
        """The run has ended: finish the copy elsewhere.

        Raises:
            CheckpointError: that fails.
        """
        if self.mirror is not None:
            self.mirror.close()

    def _prune(self, newest: int) -> None:
        """Those beyond ``newest`` are left alone: the run did not go on from them, so they are
        damaged, and are replaced when it comes there again."""
        found = [(read_state(path).iteration, path) for path in find_checkpoints(self.folder)]
        done = sorted({iteration for iteration, _ in found if iteration <= newest})
        keep = {*done[-self.keep :], *self._best(done)}
        last = dict(found)  # of equal iterations the one written last
        for iteration, path in found:
            if iteration <= newest and (iteration not in keep or path != last[iteration]):
                shutil.rmtree(path, ignore_errors=True)

    def _best(self, done: list[int]) -> list[int]:
        if not self.keep_best:
            return []
        scores = self._scores()
        scored = [i for i in done if math.isfinite(scores.get(i, math.nan))]
        return sorted(scored, key=lambda i: (scores[i], i))[-self.keep_best :]


def run_store(run_dir: Path, config: RunConfig, folder: Path) -> CheckpointStore:
    """The store of a run; a checkpoint's score is the learners' mean at its iteration.

    Raises:
        ConfigError: ``checkpoint.upload`` cannot be written from here.
    """
    settings = config.checkpoint
    if settings.upload is not None:
        check_uri(settings.upload, "checkpoint.upload")

    def scores() -> Mapping[int, float]:
        log = read_log(run_dir, "evaluations")
        if settings.best_metric not in log:
            return {}
        mean = log[log["network"].isin(config.learners)].groupby("iteration")[settings.best_metric]
        return {int(iteration): float(value) for iteration, value in mean.mean().items()}

    return CheckpointStore(
        folder,
        keep=settings.keep,
        keep_best=settings.keep_best,
        scores=scores,
        mirror=None if settings.upload is None else Mirror(settings.upload, run_dir),
    )
