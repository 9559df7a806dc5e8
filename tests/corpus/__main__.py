"""``python -m tests.corpus OUT``: write the corpus to a folder, with the command of every case."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.corpus.base import make_base
from tests.corpus.cases import CASES, folder_of


def main(out: Path) -> None:
    base = make_base(out / "base")
    listing = {}
    for case in CASES:
        folder = folder_of(case, out)
        folder.mkdir(parents=True)
        listing[case.name] = dict(command=["colad", *case.make(base, folder)], says=case.says)
    (out / "cases.json").write_text(json.dumps(listing, indent=1))
    print(f"{len(listing)} cases in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
