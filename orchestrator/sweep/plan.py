"""Which runs a sweep is made of. Decided wholly before the first one starts, and written down.

A trial's configuration is resolved here and saved in its run directory, which the trial then reads:
what is in the table is what the networks were built with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config import RunConfig, load_config
from orchestrator.errors import ConfigError
from tune_spaces import SEARCH_SPACES, SPACES
from tune_spaces.space import Choice, Row, SearchSpace, Space

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "tiny"
EVERY_LEARNER = "networks.*."


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


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """All trials of a sweep."""

    space: str
    title: str
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        """What ``sweep.json`` holds."""
        return dict(
            space=self.space,
            title=self.title,
            trials=[
                dict(
                    id=trial.id,
                    params=trial.params,
                    seed=trial.seed,
                    rows=list(trial.rows),
                    digest=trial.config.digest(),
                )
                for trial in self.trials
            ],
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
    """Settings drawn from a search space."""
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
        ConfigError: unknown space, a configuration that does not hold together, or a space whose
            lines differ in their base together with ``config``.
    """
    space = find_space(name)
    if options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: at least 1")
    settings = _grid(space, options) if isinstance(space, Space) else _samples(space, options)
    trials = tuple(
        _make_trial(number, setting, seed, options)
        for number, (setting, seed) in enumerate(
            (setting, seed) for setting in settings for seed in range(options.seeds)
        )
    )
    if not trials:
        raise ConfigError(f"space {name!r} has no line that can be run")
    return SweepPlan(space=name, title=space.title, trials=trials)


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


def _samples(space: SearchSpace, options: SweepOptions) -> list[_Setting]:
    """Settings drawn at random from a search space; the first is its base as it is."""
    if options.samples < 1:
        raise ConfigError(f"--samples {options.samples}: at least 1")
    generator = np.random.default_rng(0)
    config = options.config or tiny_config(space.base, options.overrides)
    draws: list[dict[str, Any]] = [{}]
    draws += [
        {field: _draw(domain, generator) for field, domain in space.domains.items()}
        for _ in range(options.samples - 1)
    ]
    return [_Setting(config=config, params=draw, schedule=1.0, rows=[]) for draw in draws]


def _draw(domain: Any, generator: np.random.Generator) -> Any:
    if isinstance(domain, Choice):
        return domain.values[int(generator.integers(len(domain.values)))]
    low, high = (np.log(x) if domain.log else x for x in (domain.low, domain.high))
    value = float(generator.uniform(low, high))
    return round(float(np.exp(value)) if domain.log else value, 4)


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
