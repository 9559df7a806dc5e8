"""The papers' ablation tables, and searches around the defaults, as data for ``colad tune``."""

from __future__ import annotations

from tune_spaces import ala, autoassign, dw, lad, musu
from tune_spaces.search import SEARCHES
from tune_spaces.space import SearchSpace, Space

SPACES: dict[str, Space] = {
    space.id: space for module in (lad, dw, ala, autoassign, musu) for space in module.TABLES
}
"""By the table's name: ``dw-table2``."""
SEARCH_SPACES: dict[str, SearchSpace] = {space.id: space for space in SEARCHES}
