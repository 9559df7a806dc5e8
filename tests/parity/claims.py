"""Which check reads which reference file. The first pattern that fits a file's stem claims it."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from .ala import check_ala
from .autoassign import check_autoassign
from .branches import check_branch_losses, check_cop_fusion, check_iop_fusion
from .colad import check_colad, check_criteria, check_lad
from .dw import check_dw, check_dw_postprocess, check_dw_refinement
from .musu import check_musu
from .paa import check_gmm1d, check_paa, check_postprocess
from .soft import check_elements, check_soft_labels

Check = Callable[[Path], None]

CLAIMS: tuple[tuple[str, Check], ...] = (
    ("dw_postprocess*", check_dw_postprocess),
    ("dw_box_refine*", check_dw_refinement),
    ("dw_*", check_dw),
    ("musu_*", check_musu),
    ("ala_*", check_ala),
    ("autoassign_*", check_autoassign),
    ("gmm1d*", check_gmm1d),
    ("paa_postprocess*", check_postprocess),
    ("paa_*", check_paa),
    ("lad_*", check_lad),
    ("colad_criteria*", check_criteria),
    ("colad_*", check_colad),
    ("focal_kl_*", check_elements),
    ("kd_*", check_soft_labels),
    ("solad_*", check_soft_labels),
    ("cop_fusion*", check_cop_fusion),
    ("iop_fusion*", check_iop_fusion),
    ("cop_loss*", partial(check_branch_losses, branch="cop")),
    ("iop_loss*", partial(check_branch_losses, branch="iop")),
)

NOT_BUILT_YET: tuple[str, ...] = ()
"""Files of methods to come: patterns of stems. A method that is built leaves this list."""


def find_check(stem: str) -> Check | None:
    """The check of a file, or None if nothing claims it."""
    return next((check for pattern, check in CLAIMS if fnmatchcase(stem, pattern)), None)


def is_not_built_yet(stem: str) -> bool:
    """Whether the file belongs to a method that the list above names."""
    return find_check(stem) is None and any(fnmatchcase(stem, p) for p in NOT_BUILT_YET)
