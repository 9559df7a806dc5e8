"""The papers' tables and searches around the defaults, as data for ``colad tune``."""

from tune_spaces.space import SearchSpace, Space

SPACES: dict[str, Space] = {}
SEARCH_SPACES: dict[str, SearchSpace] = {}
