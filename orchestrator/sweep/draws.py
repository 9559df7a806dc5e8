"""Settings drawn from domains: at random, on a grid, and the point that a base stands at."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from assigners import build_assigner
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from tune_spaces.space import Choice, Range

Domain = Range | Choice
T = TypeVar("T")


def check_optuna() -> None:
    """Say what to install where Optuna is missing.

    Raises:
        ConfigError: it is.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("--search optuna: Optuna is not installed; pip install 'colad[optuna]'")


def random_draws(domains: Mapping[str, Domain], samples: int) -> list[dict[str, Any]]:
    """``samples`` settings; the first is empty, for the base as it is. Equal on every call."""
    generator = np.random.default_rng(0)
    draws: list[dict[str, Any]] = [{}]
    for _ in range(samples - 1):
        draws.append({name: _draw(domain, generator) for name, domain in domains.items()})
    return draws


def _draw(domain: Domain, generator: np.random.Generator) -> Any:
    if isinstance(domain, Choice):
        return domain.values[int(generator.integers(len(domain.values)))]
    low, high = (np.log(x) if domain.log else x for x in (domain.low, domain.high))
    value = float(generator.uniform(low, high))
    return round(float(np.exp(value)) if domain.log else value, 4)


def grid_draws(domains: Mapping[str, Domain], samples: int) -> list[dict[str, Any]]:
    """All combinations, with as many even steps in every range as ``samples`` allows.

    Raises:
        ConfigError: not even two steps; the message says how many settings those are.
    """
    choices = math.prod(len(d.values) for d in domains.values() if isinstance(d, Choice))
    ranges = sum(isinstance(domain, Range) for domain in domains.values())
    if samples < choices * 2**ranges:
        raise ConfigError(
            f"--samples {samples} with --search grid: two steps of each of {ranges} range(s) times "
            f"{choices} choice(s) are {choices * 2**ranges} settings; allow as many"
        )
    steps = 2
    while ranges and choices * (steps + 1) ** ranges <= samples:
        steps += 1
    axes = [_steps(domain, steps) for domain in domains.values()]
    return [dict(zip(domains, values)) for values in itertools.product(*axes)]


def _steps(domain: Domain, steps: int) -> list[Any]:
    if isinstance(domain, Choice):
        return list(domain.values)
    space = np.geomspace if domain.log else np.linspace
    return [round(float(value), 4) for value in space(domain.low, domain.high, steps)]


def sample_settings(settings: Sequence[T], samples: int) -> list[T]:
    """``samples`` of them, or all, in their order. Equal on every call."""
    chosen = np.random.default_rng(0).permutation(len(settings))[:samples]
    return [settings[index] for index in sorted(chosen)]


def extremes(domain: Domain) -> Iterator[Any]:
    """The values that decide whether a domain is valid."""
    yield from domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


def contains(domain: Domain, value: Any) -> bool:
    """Whether a search may propose the value."""
    if isinstance(domain, Choice):
        return value in domain.values
    return isinstance(value, (int, float)) and domain.low <= value <= domain.high


def clip(domain: Domain, value: Any) -> Any:
    """A perturbed number, back in its range."""
    if isinstance(domain, Choice):
        return value
    return min(max(float(value), domain.low), domain.high)


def base_values(config: RunConfig, domains: Mapping[str, Domain]) -> dict[str, Any]:
    """A configuration's own values of the searched fields; one outside its domain is moved to
    the domain's nearest value (or its first choice).

    Raises:
        ConfigError: the configuration has no such field.
    """
    found = {}
    for name, domain in domains.items():
        value = _value_of(config, name)
        if not contains(domain, value):
            number = isinstance(domain, Range) and isinstance(value, (int, float))
            value = clip(domain, value) if number else next(extremes(domain))
        found[name] = float(value) if isinstance(domain, Range) else value
    return found


def _value_of(config: RunConfig, name: str) -> Any:
    section, _, rest = name.partition(".")
    value: Any = getattr(config, section, None)
    if section == "assigner":  # what the file leaves out has the method's default
        value = build_assigner(config.assigner)
    for part in rest.split("."):
        if value is None or not hasattr(value, part):
            raise ConfigError(f"{name}: the base configuration has no such field to search in")
        value = getattr(value, part)
    return value
