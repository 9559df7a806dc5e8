"""Which prior learns which ground-truth box, and how strongly: pure tensor functions.

``build_assigner`` makes an assigner of a configuration; the types are those of ``assigners.types``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from assigners.ala import ALAAssigner
from assigners.autoassign import AutoAssigner
from assigners.dw import DWAssigner
from assigners.musu import MuSuAssigner
from assigners.paa import PAAAssigner
from assigners.types import (
    QUALITY_KINDS,
    Assigner,
    Assignment,
    Candidates,
    CostTable,
    DensePredictions,
    GroundTruths,
    HardAssignment,
    Priors,
    SoftAssignment,
    Step,
)

__all__ = [
    "ALAAssigner",
    "ASSIGNERS",
    "QUALITY_KINDS",
    "Assigner",
    "Assignment",
    "AutoAssigner",
    "Candidates",
    "CostTable",
    "DWAssigner",
    "DensePredictions",
    "GroundTruths",
    "HardAssignment",
    "MuSuAssigner",
    "PAAAssigner",
    "Priors",
    "SoftAssignment",
    "Step",
    "build_assigner",
]

ASSIGNERS: dict[str, type] = {
    "PAA": PAAAssigner,
    "DW": DWAssigner,
    "AutoAssign": AutoAssigner,
    "ALA": ALAAssigner,
    "MuSu": MuSuAssigner,
}
"""Every method by the name it has in configurations."""


def build_assigner(config: Mapping[str, Any]) -> Assigner:
    """Build the assigner that ``config["type"]`` names; the other fields are hyper-parameters.

    Raises:
        ValueError: the type is missing or unknown, or a hyper-parameter is unknown or out of range;
            the message names it, the known ones and the closest match.
    """
    fields = dict(config)
    name = fields.pop("type", None)
    if name is None:
        raise ValueError(f"assigner: 'type' is missing; known types: {', '.join(ASSIGNERS)}")
    if name not in ASSIGNERS:
        raise ValueError(f"assigner: unknown type {name!r}{_hint(str(name), list(ASSIGNERS))}")
    known = [field.name for field in dataclasses.fields(ASSIGNERS[name])]
    for field in fields:
        if field not in known:
            raise ValueError(f"assigner {name}: unknown field {field!r}{_hint(str(field), known)}")
    assigner: Assigner = ASSIGNERS[name](**fields)
    return assigner


def _hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1) or [
        name for name in known if name.lower() == word.lower()
    ]
    suggestion = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{suggestion}; known: {', '.join(known)}"
