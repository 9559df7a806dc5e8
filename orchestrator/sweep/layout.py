"""The files of a sweep's directory, and how trials come into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.config_file import load_config, save_config
from orchestrator.datasets import PreparedData, prepare_data, save_prepared
from orchestrator.errors import ConfigError
from orchestrator.sweep.plan import SweepPlan, Trial
from orchestrator.sweep.population import has_changed, write_params
from orchestrator.sweep.results import read_plan

SWEEP_FILE = "sweep.json"


class Layout:
    """One sweep's directory.

    Args:
        sweep_dir: the directory.
        plan: the sweep.
    """

    def __init__(self, sweep_dir: Path, plan: SweepPlan) -> None:
        self.sweep_dir, self.plan = sweep_dir, plan
        self.trials: list[Trial] = list(plan.trials)
        """Those known so far, in their order."""
        self._prepared: dict[str, PreparedData] = {}

    @property
    def path(self) -> Path:
        """The plan on disk."""
        return self.sweep_dir / SWEEP_FILE

    def trial_dir(self, trial: str) -> Path:
        """Run directory of a trial."""
        return trial_dir(self.sweep_dir, trial)

    def check(self, *, resume: bool) -> None:
        """Compare with what is there; of a sequential search, take its trials up.

        Raises:
            ConfigError: a sweep that is not to be resumed is there, or none, or another.
        """
        if not resume:
            if self.path.exists():
                raise ConfigError(
                    f"{self.sweep_dir} holds a sweep: --resume goes on with it, or use another "
                    "--work-dir"
                )
            return
        if not self.path.is_file():
            raise ConfigError(f"--resume: {self.sweep_dir} holds no sweep (no {SWEEP_FILE})")
        before = read_plan(self.sweep_dir)
        if self.plan.samples and before.get("samples") == self.plan.samples:
            self.trials = [
                self.plan.draw(number, trial["params"])
                for number, trial in enumerate(before["trials"])
            ]
        if before != self._plain():
            counts = f"{len(before['trials'])} trials of {before['space']}"
            raise ConfigError(
                f"--resume: {self.sweep_dir} was started as {counts} with other settings; repeat "
                "the same command with --resume, or use another --work-dir"
            )

    def add(self, trial: Trial, config: RunConfig) -> None:
        """Make a trial's run directory: resolved configuration and checked data.

        Args:
            trial: the trial.
            config: its configuration, fitted to the cluster.
        """
        run_dir = self.trial_dir(trial.id)
        run_dir.mkdir(parents=True, exist_ok=True)
        key = repr(config.data)
        if key not in self._prepared:
            self._prepared[key] = prepare_data(config.data, self.sweep_dir / "data")
        save_config(config, run_dir / "config.py")
        write_params(run_dir, trial.params)
        save_prepared(self._prepared[key], run_dir / "data.json")
        if all(known.id != trial.id for known in self.trials):
            self.trials.append(trial)

    def config_of(self, trial: Trial) -> RunConfig:
        """What a trial goes on with: the plan's, or what a population has made of it."""
        run_dir = self.trial_dir(trial.id)
        return load_config(run_dir / "config.py") if has_changed(run_dir) else trial.config

    def save(self) -> None:
        """Write the plan with the trials known so far, whole or not at all."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._plain(), indent=1), encoding="utf-8")
        temporary.replace(self.path)

    def _plain(self) -> Mapping[str, Any]:
        plan = {**self.plan.to_dict(), "trials": [trial.to_dict() for trial in self.trials]}
        plain: dict[str, Any] = json.loads(json.dumps(plan))
        return plain


def trial_dir(sweep_dir: Path, trial: str) -> Path:
    """Run directory of a trial."""
    return sweep_dir / "trials" / trial
