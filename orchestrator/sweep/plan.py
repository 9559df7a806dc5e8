"""Which runs a sweep is made of. Decided wholly before the first one starts, and written down.

A trial's configuration is resolved here and saved in its run directory, which the trial then reads:
what is in the table is what the networks were built with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assigners import build_assigner
from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.errors import ConfigError
from orchestrator.sweep.draws import (
    Domain,
    base_values,
    check_optuna,
    extremes,
    grid_draws,
    random_draws,
    sample_settings,
)
from tune_spaces import SEARCH_SPACES, SPACES
from tune_spaces.space import Row, SearchSpace, Space

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "tiny"
EVERY_LEARNER = "networks.*."
SEARCHES = ("grid", "random", "optuna")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep."""

    id: str
    """Folder beneath ``trials/``."""
    params: dict[str, Any]
    """The fields that this trial sets, as the space names them."""
    seed: int
    rows: tuple[int, ...]
    """Lines of the space that it gives figures for; empty in a search."""
    config: RunConfig

    def to_dict(self) -> dict[str, Any]:
        """What ``sweep.json`` holds of it."""
        return dict(
            id=self.id,
            params=self.params,
            seed=self.seed,
            rows=list(self.rows),
            digest=self.config.digest(),
        )


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """All trials of a sweep, or how to make them when Optuna asks for them."""

    space: str
    title: str
    trials: tuple[Trial, ...]
    """Empty where they are drawn one by one."""
    search: str = "grid"
    """One of ``SEARCHES``."""
    domains: Mapping[str, Domain] = field(default_factory=dict)
    """What a search may set."""
    samples: int = 0
    """How many trials a sequential search draws; 0: all trials are known."""
    start: dict[str, Any] = field(default_factory=dict)
    """The base's own values of the searched fields."""
    options: SweepOptions | None = None
    """Of a sequential search, for ``draw``."""

    @property
    def size(self) -> int:
        """How many trials the sweep has when it is complete."""
        return self.samples or len(self.trials)

    def draw(self, number: int, params: Mapping[str, Any]) -> Trial:
        """Trial ``number`` of a sequential search.

        Raises:
            ConfigError: the values do not hold together.
        """
        assert self.options is not None, "only a sequential search draws"
        space = find_space(self.space)
        config = self.options.config or tiny_config(space.base, self.options.overrides)
        setting = _Setting(config=config, params=dict(params), schedule=1.0, rows=[])
        return _make_trial(number, setting, 0, self.options)

    def to_dict(self) -> dict[str, Any]:
        """What ``sweep.json`` holds."""
        return dict(
            space=self.space,
            title=self.title,
            search=self.search,
            samples=self.samples,
            start=self.start,
            trials=[trial.to_dict() for trial in self.trials],
        )


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What the command line adds to a space."""

    config: Path | None = None
    """In place of the space's base configuration."""
    overrides: Sequence[str] = ()
    """``FIELD=VALUE`` for every trial; the swept fields come after them."""
    seeds: int = 1
    """Runs of each setting, with seeds 0, 1, ..."""
    samples: int = 8
    """Settings of a search."""
    search: str | None = None
    """One of ``SEARCHES``; None: ``grid`` for a table, ``random`` for a search space."""
    population: bool = False
    """The trials are a population: they change their values while they train."""
    max_iterations: int | None = None
    gpus_per_network: float | None = None


def find_space(name: str) -> Space | SearchSpace:
    """A space by its id.

    Raises:
        ConfigError: there is none; the message names near ones.
    """
    import difflib

    known: dict[str, Space | SearchSpace] = {**SPACES, **SEARCH_SPACES}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise ConfigError(f"no space {name!r}{hint} `colad tune --list` shows all")


def plan_sweep(name: str, options: SweepOptions) -> SweepPlan:
    """All trials of a space, validated.

    Raises:
        ConfigError: unknown space, a configuration that does not hold together, a search that the
            space does not allow, or a space whose lines differ in their base together with
            ``config``.
    """
    space = find_space(name)
    if options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: at least 1")
    if options.samples < 1:
        raise ConfigError(f"--samples {options.samples}: at least 1")
    if options.config is not None:
        _check_method(space, options.config, options.overrides)
    if isinstance(space, SearchSpace):
        return _plan_search(space, options)
    return _plan_table(space, options)


def _check_method(space: Space | SearchSpace, path: Path, overrides: Sequence[str]) -> None:
    """Methods share names of fields (alpha, beta), so another method's file must not pass."""
    base = load_config(CONFIGS / f"{space.base}_shapes.py").assigner["type"]
    found = resolve(path, overrides, {}).assigner.get("type")
    if found != base:
        raise ConfigError(
            f"--config {path}: its assigner is {found!r}, but {space.id} sets fields of {base!r}; "
            f"give a configuration with assigner.type = {base!r}"
        )


def _plan_table(space: Space, options: SweepOptions) -> SweepPlan:
    search = _checked_search(options.search or "grid")
    if search == "optuna" or options.population:
        what = "--search optuna" if search == "optuna" else "--scheduler pbt"
        raise ConfigError(
            f"{what}: {space.id} is a table of single settings; take a search space "
            f"({', '.join(SEARCH_SPACES)})"
        )
    settings = _grid(space, options)
    if search == "random":
        settings = sample_settings(settings, options.samples)
    trials = _repeat(settings, options)
    if not trials:
        raise ConfigError(f"space {space.id!r} has no line that can be run")
    return SweepPlan(space=space.id, title=space.title, trials=trials, search=search)


def _plan_search(space: SearchSpace, options: SweepOptions) -> SweepPlan:
    search = _checked_search(options.search or "random")
    config = options.config or tiny_config(space.base, options.overrides)
    if options.population:
        options = dataclasses.replace(
            options, overrides=[*options.overrides, "checkpoint.interval=None"]
        )
    start = base_values(resolve(config, options.overrides, {}), space.domains)
    if search == "optuna":
        check_optuna()
    if search == "optuna" or options.population:
        if options.seeds != 1:
            what = "--search optuna" if search == "optuna" else "--scheduler pbt"
            raise ConfigError(
                f"--seeds {options.seeds} with {what}: every setting is run once; repeat the best "
                "one afterwards (colad train best.py --set seed=1)"
            )
        _check_domains(space, config, options)
    common: dict[str, Any] = dict(space=space.id, title=space.title, search=search)
    if search == "optuna":
        if options.population:
            raise ConfigError(
                "--search optuna with --scheduler pbt: a population draws its own settings; leave "
                "out one of the two"
            )
        found = SweepPlan(
            **common,
            trials=(),
            domains=space.domains,
            samples=options.samples,
            start=start,
            options=options,
        )
        found.draw(0, start)  # what is wrong with the base shows now
        return found
    if search == "grid":
        draws = grid_draws(space.domains, options.samples)
    else:
        draws = random_draws(space.domains, options.samples)
        draws[0] = start if options.population else {}
    settings = [_Setting(config=config, params=draw, schedule=1.0, rows=[]) for draw in draws]
    trials = _repeat(settings, options)
    return SweepPlan(**common, trials=trials, domains=space.domains, start=start)


def _checked_search(search: str) -> str:
    if search not in SEARCHES:
        raise ConfigError(f"--search {search}: expected one of {', '.join(SEARCHES)}")
    return search


def _check_domains(space: SearchSpace, config: Path, options: SweepOptions) -> None:
    """Values that are only drawn in the course of the sweep must be valid before it."""
    for name, domain in space.domains.items():
        for value in extremes(domain):
            found = resolve(config, options.overrides, {name: value})
            try:
                build_assigner(found.assigner)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{space.id}: {name} = {value!r}: {error}") from error


def _repeat(settings: Sequence[_Setting], options: SweepOptions) -> tuple[Trial, ...]:
    """Every setting once per seed."""
    runs = [(setting, seed) for setting in settings for seed in range(options.seeds)]
    return tuple(_make_trial(n, setting, seed, options) for n, (setting, seed) in enumerate(runs))


@dataclass(kw_only=True)
class _Setting:
    """A configuration file, what it sets, and for which lines."""

    config: Path
    params: dict[str, Any]
    schedule: float
    rows: list[int]


def _grid(space: Space, options: SweepOptions) -> list[_Setting]:
    """The different runs behind the lines of a table, in their order."""
    found: dict[str, _Setting] = {}
    for index, row in enumerate(space.rows):
        if row.skip is not None:
            continue
        config = _base(space, row, options)
        key = json.dumps([str(config), dict(row.set), row.schedule], sort_keys=True, default=str)
        setting = found.setdefault(
            key, _Setting(config=config, params=dict(row.set), schedule=row.schedule, rows=[])
        )
        setting.rows.append(index)
    return list(found.values())


def _base(space: Space, row: Row, options: SweepOptions) -> Path:
    if options.config is None:
        return tiny_config(row.base or space.base, options.overrides)
    if row.base is not None and row.base != space.base:
        raise ConfigError(
            f"--config: the lines of {space.id} start from different configurations "
            f"({space.base}, {row.base}, ...), so one file cannot stand for all; leave it out and "
            "give data and networks by --set"
        )
    return options.config


def tiny_config(base: str, overrides: Sequence[str]) -> Path:
    """``configs/tiny/BASE.py`` where the overrides name data, else the same on drawn shapes.

    Raises:
        ConfigError: no such file.
    """
    own_data = any(item.strip().startswith("data.root=") for item in overrides)
    path = CONFIGS / f"{base}{'' if own_data else '_shapes'}.py"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the configuration to start from: --config")
    return path


def _make_trial(number: int, setting: _Setting, seed: int, options: SweepOptions) -> Trial:
    config = resolve(setting.config, [*options.overrides, f"seed={seed}"], setting.params)
    train = config.train
    if options.max_iterations is not None:
        train = dataclasses.replace(train, max_iterations=options.max_iterations, max_epochs=None)
    if setting.schedule != 1:
        lengths: dict[str, Any] = {}
        if train.max_iterations is not None:
            lengths["max_iterations"] = round(train.max_iterations * setting.schedule)
        if train.max_epochs is not None:
            lengths["max_epochs"] = round(train.max_epochs * setting.schedule)
        train = dataclasses.replace(train, **lengths)
    config = dataclasses.replace(config, train=train)
    if options.gpus_per_network is not None:
        resources = dataclasses.replace(config.resources, gpus_per_network=options.gpus_per_network)
        config = dataclasses.replace(config, resources=resources)
    text = json.dumps([setting.params, setting.config.stem, setting.schedule, seed], default=str)
    short = hashlib.sha256(text.encode()).hexdigest()[:6]
    return Trial(
        id=f"{number:04d}-{short}",
        params=setting.params,
        seed=seed,
        rows=tuple(setting.rows),
        config=config,
    )


def resolve(path: Path, overrides: Sequence[str], params: Mapping[str, Any]) -> RunConfig:
    """The configuration of a file with overrides and a space's fields.

    Raises:
        ConfigError: as ``load_config``, naming the fields that were set.
    """
    plain = [item for item in overrides if not item.strip().startswith("networks.")]
    overrides = for_networks(overrides, load_config(path, plain).networks)
    learners = load_config(path, overrides).learners
    items = [
        f"{name}={value!r}" for field, value in params.items() for name in expand(field, learners)
    ]
    try:
        return load_config(path, [*overrides, *items])
    except ConfigError as error:
        raise ConfigError(f"{path.stem} with {', '.join(items) or 'no change'}: {error}") from error


def for_networks(overrides: Sequence[str], networks: Collection[str]) -> list[str]:
    """The overrides without those of networks that this configuration does not have.

    The lines of one table may be runs of different networks, and ``networks.teacher.checkpoint``,
    say, is for those with a teacher.
    """
    kept = []
    for item in overrides:
        parts = item.strip().split(".", 2)
        if parts[0] != "networks" or len(parts) < 3 or parts[1] in networks:
            kept.append(item)
    return kept


def expand(field: str, learners: Sequence[str]) -> Iterator[str]:
    """``networks.*.x`` once for every learner; other fields as they are."""
    if field.startswith(EVERY_LEARNER):
        for name in learners:
            yield f"networks.{name}.{field.removeprefix(EVERY_LEARNER)}"
    else:
        yield field
