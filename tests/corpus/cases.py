"""All cases."""

from __future__ import annotations

import re
from pathlib import Path

from tests.corpus import configs, datasets, others
from tests.corpus.base import Case

CASES = [*datasets.CASES, *configs.CASES, *others.CASES, *others.LINES]


def folder_of(case: Case, root: Path) -> Path:
    """A folder name that any file system takes."""
    return root / f"{CASES.index(case):03d}_{re.sub(r'[^A-Za-z0-9]+', '_', case.name)[:40]}"
