"""Which check reads which reference file. The first pattern that fits a file's stem claims it."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from .colad import check_colad, check_criteria, check_lad
from .paa import check_gmm1d, check_paa, check_postprocess

Check = Callable[[Path], None]

CLAIMS: tuple[tuple[str, Check], ...] = (
    ("gmm1d*", check_gmm1d),
    ("paa_postprocess*", check_postprocess),
    ("paa_*", check_paa),
    ("lad_*", check_lad),
    ("colad_criteria*", check_criteria),
    ("colad_*", check_colad),
)

NOT_BUILT_YET: tuple[str, ...] = (
    "ala_*",
    "autoassign_*",
    "cop_*",
    "dw_*",
    "focal_kl_*",
    "iop_*",
    "kd_*",
    "musu_*",
    "solad_*",
)
"""Files of methods to come: patterns of stems. A method that is built leaves this list."""


def find_check(stem: str) -> Check | None:
    """The check of a file, or None if nothing claims it."""
    return next((check for pattern, check in CLAIMS if fnmatchcase(stem, pattern)), None)


def is_not_built_yet(stem: str) -> bool:
    """Whether the file belongs to a method that the list above names."""
    return find_check(stem) is None and any(fnmatchcase(stem, p) for p in NOT_BUILT_YET)
