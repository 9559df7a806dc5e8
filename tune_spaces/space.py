"""What a space is: the rows of one table of a paper, as configurations. Data, no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")


def figures(*values: float | None) -> dict[str, float | None]:
    """A line's AP, AP50, AP75, AP_S, AP_M, AP_L, as far as the table goes."""
    return dict(zip(METRICS, values))


def assigner(**fields: Any) -> dict[str, Any]:
    """Fields of the assigner."""
    return {f"assigner.{name}": value for name, value in fields.items()}


def head(**fields: Any) -> dict[str, Any]:
    """Fields of every learner's head."""
    return {f"networks.*.model.bbox_head.{name}": value for name, value in fields.items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    paper: Mapping[str, float | None]
    """The paper's figures, in percent; None where it prints none."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Configuration fields and their values; ``networks.*`` means every learner."""
    base: str | None = None
    """Configuration that this row starts from, where it is not the space's."""
    network: str | None = None
    """Whose figures are compared; None: the first learner's."""
    schedule: float = 1.0
    """Length of training, as a multiple of the base's."""
    skip: str | None = None
    """Why this line is no trial (another author's detector, say)."""
    note: str = ""
    """What is doubtful about it."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """One table."""

    id: str
    """``dw-table2``, for example."""
    paper: str
    """``lad``, ``dw``, ``ala``, ``autoassign`` or ``musu``."""
    title: str
    base: str
    """Configuration family: ``configs/tiny/BASE.py`` and ``BASE_shapes.py``."""
    fields: Mapping[str, str]
    """The paper's parameters that are swept, and the configuration field of each; those of lines
    that differ in their base have an empty field."""
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A continuous interval of a search."""

    low: float
    high: float
    log: bool = False
    """Sample its logarithm evenly."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A finite set of a search."""

    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A search around a method's defaults."""

    id: str
    """``dw-search``, for example."""
    title: str
    base: str
    domains: Mapping[str, Range | Choice]
    """Configuration field to what it may be."""
