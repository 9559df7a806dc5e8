"""Every reference file in $COLAD_FIXTURES (default: ../shared/fixtures) has a test of its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .claims import find_check, is_not_built_yet

pytestmark = pytest.mark.parity

VARIABLE = "COLAD_FIXTURES"
DEFAULT_FOLDER = Path(__file__).parents[2].parent / "shared" / "fixtures"


def _files() -> list:
    """One parameter per file; a single one that skips or fails where there are none."""
    given = os.environ.get(VARIABLE)
    folder = Path(given) if given else DEFAULT_FOLDER
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if files:
        return [pytest.param(f, id=f.stem) for f in files if not is_not_built_yet(f.stem)]
    if given:
        return [pytest.param(folder, id="no-reference-files")]
    reason = f"no reference files in {folder}; set {VARIABLE} to the folder that holds them"
    return [pytest.param(folder, id="no-reference-files", marks=pytest.mark.skip(reason=reason))]


@pytest.mark.parametrize("path", _files())
def test_agrees_with_reference(path: Path) -> None:
    if path.suffix != ".npz":
        pytest.fail(f"{VARIABLE}={path} is not a folder with reference files (*.npz)")
    check = find_check(path.stem)
    if check is None:
        pytest.fail(f"no test claims {path.name}: see tests/parity/claims.py")
    check(path)
