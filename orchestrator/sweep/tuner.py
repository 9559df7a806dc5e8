"""Ray Tune's part of a sweep: the experiment, the schedulers, who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.errors import ConfigError
from orchestrator.launcher import hide_credentials, placement_factory
from orchestrator.placement import plan_placement
from orchestrator.retries import WITHOUT_END, trial_events
from orchestrator.sweep.draws import Domain, clip
from orchestrator.sweep.layout import Layout
from orchestrator.sweep.plan import SweepPlan, Trial
from orchestrator.sweep.population import current_params
from orchestrator.sweep.trackers import Trackers
from orchestrator.sweep.watch import Watcher
from tune_spaces.space import Choice

SCHEDULERS = ("none", "asha", "median", "pbt")


def check_scheduler(
    name: str, plan: SweepPlan, configs: Sequence[RunConfig], concurrency: int | None
) -> None:
    """Refuse a scheduler that cannot work with the trials.

    Raises:
        ConfigError: naming the field or option to change.
    """
    if name == "none":
        return
    if not all(config.train.max_iterations for config in configs):
        raise ConfigError(
            f"--scheduler {name} compares trials by iterations: set train.max_iterations"
        )
    if name != "pbt":
        return
    if not plan.domains or plan.samples:
        raise ConfigError("--scheduler pbt needs a search space and all of its trials at once")
    if plan.size < 2:
        raise ConfigError(f"--scheduler pbt: a population of {plan.size}; --samples 2 or more")
    if concurrency is not None and concurrency < plan.size:
        raise ConfigError(
            f"--concurrency {concurrency} with --scheduler pbt: all {plan.size} trials take turns "
            "on what the cluster has; leave it out"
        )
    first = configs[0]
    interval, length = first.evaluation.interval, first.train.max_iterations
    if interval is None or length is None or interval >= length:
        raise ConfigError(
            f"--scheduler pbt compares trials at their evaluations: evaluation.interval = "
            f"{interval} must be set, and lower than train.max_iterations = {length}"
        )


def make_tuner(
    layout: Layout, scheduler: str, at_once: int, watcher: Watcher, trackers: Trackers
) -> Any:
    """The experiment; its ``fit`` runs the trials.

    Args:
        layout: the sweep, its trials' directories written.
        scheduler: one of ``SCHEDULERS``.
        at_once: trials at once.
        watcher: told how trials end.
        trackers: told everything.
    """
    from ray import tune

    from orchestrator.sweep.trial import sweep_trial

    def describe(trial: Trial) -> dict[str, Any]:
        watcher.trials[trial.id] = trial
        return dict(
            id=trial.id,
            trials_dir=str(layout.trial_dir(trial.id).parent),
            network=trial.config.learners[0],
            population=scheduler == "pbt",
            set=current_params(layout.trial_dir(trial.id)),
            seed=trial.seed,
        )

    def resources(params: Mapping[str, Any]) -> Any:
        path = layout.trial_dir(params["trial"]["id"]) / "config.py"
        return placement_factory(plan_placement(load_config(path)))

    hide_credentials()
    plan = layout.plan
    configs = [trial.config for trial in layout.trials] or [plan.draw(0, plan.start).config]
    launches = layout.sweep_dir / "tune"
    searched: dict[str, Any] = {}
    space: dict[str, Any] = {}
    if plan.samples:
        from orchestrator.sweep.proposals import OptunaTrials

        domains = {name: _as_tune_domain(domain) for name, domain in plan.domains.items()}
        searched = dict(
            search_alg=OptunaTrials(layout, describe, domains),
            num_samples=_left(layout, plan.samples),
        )
    else:
        space["trial"] = tune.grid_search([describe(trial) for trial in layout.trials])
    longest = max(config.train.max_iterations or 0 for config in configs)
    return tune.Tuner(
        tune.with_resources(_flat(sweep_trial), resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="AP",
            mode="max",
            scheduler=_make_scheduler(scheduler, plan, configs, longest),
            # a population's resting trials would count
            max_concurrent_trials=None if scheduler == "pbt" else at_once,
            trial_name_creator=_first_name,
            trial_dirname_creator=_first_name,
            **searched,
        ),
        run_config=tune.RunConfig(
            name=f"launch-{sum(1 for _ in launches.glob('launch-*')) + 1}",
            storage_path=str(launches),
            failure_config=tune.FailureConfig(max_failures=WITHOUT_END),
            stop={"iterations": longest} if scheduler == "pbt" else None,
            callbacks=[
                trial_events(watcher),
                *trackers.callbacks(layout.sweep_dir, changing=scheduler == "pbt"),
            ],
            verbose=0,
        ),
    )


def _left(layout: Layout, samples: int) -> int:
    """Trials that Tune shall ask for: ended ones are not run again."""
    from orchestrator.sweep.status import read_status

    ended = [trial for trial in layout.trials if read_status(layout.trial_dir(trial.id))]
    return samples - len(ended)


def _flat(trainable: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(params: dict[str, Any]) -> None:
        trainable(params["trial"])

    run.__name__ = "sweep_trial"
    return run


def _first_name(trial: Any) -> str:
    """A trial's name, while its parameters are still its own."""
    name: str = trial.config["trial"]["id"]
    return name


def _make_scheduler(name: str, plan: SweepPlan, configs: Sequence[RunConfig], longest: int) -> Any:
    from ray.tune import schedulers

    intervals = [config.evaluation.interval for config in configs]
    first = min((interval for interval in intervals if interval is not None), default=1)
    if name == "asha":
        return schedulers.AsyncHyperBandScheduler(
            time_attr="iterations", max_t=longest, grace_period=first, reduction_factor=2
        )
    if name == "median":
        return schedulers.MedianStoppingRule(
            time_attr="iterations", grace_period=first, min_samples_required=2
        )
    if name == "pbt":
        return schedulers.PopulationBasedTraining(
            time_attr="iterations",
            perturbation_interval=first,
            hyperparam_mutations={"trial": {"set": _mutations(plan.domains)}},
            custom_explore_fn=_keep_in_range(plan.domains),
            log_config=False,
        )
    return None


def _mutations(domains: Mapping[str, Domain]) -> dict[str, Any]:
    """The domains as Tune draws from them anew; otherwise it moves a value up or down."""
    return {name: _as_tune_domain(domain, listed=True) for name, domain in domains.items()}


def _as_tune_domain(domain: Domain, *, listed: bool = False) -> Any:
    """A domain in Tune's terms.

    Args:
        domain: the domain.
        listed: choices as a list, whose order counts, instead of a categorical domain.
    """
    from ray import tune

    if isinstance(domain, Choice):
        return list(domain.values) if listed else tune.choice(list(domain.values))
    space = tune.loguniform if domain.log else tune.uniform
    return space(domain.low, domain.high)


def _keep_in_range(domains: Mapping[str, Domain]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def explore(config: dict[str, Any]) -> dict[str, Any]:
        values = config["trial"]["set"]
        for name, domain in domains.items():
            values[name] = clip(domain, values[name])
        return config

    return explore
