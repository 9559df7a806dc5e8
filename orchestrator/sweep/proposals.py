"""Optuna's proposals as trials of a sweep.

What Optuna knows is what the sweep's directory holds, so a resumed search tells it the ended trials
and starts with those that were proposed and not ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from orchestrator.launcher import fit_to_cluster
from orchestrator.runlog import read_log
from orchestrator.sweep.layout import Layout
from orchestrator.sweep.plan import Trial
from orchestrator.sweep.status import FAILED, read_status

SEED = 0


class OptunaTrials(Searcher):
    """Makes a run directory of every proposal.

    Args:
        layout: the sweep's directory, with the trials of earlier launches.
        describe: a trial as the trainable takes it.
        domains: of the fields, in Tune's terms.
    """

    def __init__(
        self,
        layout: Layout,
        describe: Callable[[Trial], dict[str, Any]],
        domains: dict[str, Any],
    ) -> None:
        super().__init__(metric="AP", mode="max")
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._layout, self._describe = layout, describe
        self._waiting: list[Trial] = []
        ended: list[Trial] = []
        for trial in layout.trials:
            known = read_status(layout.trial_dir(trial.id)) is not None
            (ended if known else self._waiting).append(trial)
        points = [trial.params for trial in self._waiting]
        if not layout.trials:
            points = [layout.plan.start]  # the base as it is, first
        self._optuna = OptunaSearch(
            domains,
            metric="AP",
            mode="max",
            seed=SEED + len(layout.trials),
            points_to_evaluate=points,
        )
        for trial in ended:
            self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        """An ended trial of an earlier launch; failed ones as such."""
        run_dir = self._layout.trial_dir(trial.id)
        status = read_status(run_dir)
        assert status is not None, "only ended trials are told"
        log = read_log(run_dir, "evaluations")
        mine = log[log["network"] == trial.config.learners[0]] if len(log) else log
        failed = status.outcome == FAILED or not len(mine)
        value = 0.0 if failed else float(mine["AP"].iloc[-1])
        self._optuna.add_evaluated_point(trial.params, value, error=failed)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next trial, in its own run directory."""
        params = self._optuna.suggest(trial_id)
        if self._waiting:
            trial = self._waiting.pop(0)
        else:
            trial = self._layout.plan.draw(len(self._layout.trials), params)
            self._layout.add(trial, fit_to_cluster(trial.config))
            self._layout.save()
        return {"trial": self._describe(trial)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An evaluation."""
        self._optuna.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The end of a trial."""
        self._optuna.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run directories hold everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: ``__init__`` reads the run directories."""

    def __reduce__(self) -> Any:
        return (Searcher, ())  # Tune stores the experiment; the run directories are ours

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing, as ``save``."""
