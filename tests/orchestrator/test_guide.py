"""The code of docs/guide.md runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from assigners import ASSIGNERS
from orchestrator.config import load_config
from orchestrator.local_run import run_locally
from orchestrator.report.assign import AssignRequest, draw_request
from orchestrator.runlog import read_log
from tests.support.runs import ROOT, SMALL

GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
NEAREST = ("custom_imports=['nearest']", "assigner.type=Nearest", "assigner.k=3")


@pytest.fixture
def nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (block,) = re.findall(r"```python\n# nearest.py\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "nearest.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(ASSIGNERS, "Nearest", object)  # to be taken away again
    yield
    sys.modules.pop("nearest", None)


@pytest.mark.usefixtures("nearest")
def test_the_assigner_of_the_guide_co_trains_and_is_drawn(tmp_path: Path) -> None:
    overrides = [*SMALL, f"data.root={tmp_path / 'shapes'}", "train.max_iterations=2", *NEAREST]
    run_locally(
        load_config(ROOT / "configs" / "tiny" / "colad_shapes.py", overrides), tmp_path / "run"
    )
    sample = read_log(tmp_path / "run", "assignments")
    positives = sample[sample["learner"] == "r18"].groupby(["iteration", "gt"])["positive"].sum()
    assert positives.between(1, 3).all() and (positives == 3).any()
    request = AssignRequest(
        target=tmp_path / "shapes",
        configs=(ROOT / "configs" / "tiny" / "paa.py",),
        overrides=(*NEAREST, "data.scale=[64, 64]"),
        out=tmp_path / "nearest.png",
    )
    ((path, (line,)),) = draw_request(request)
    assert path.is_file() and line.startswith("paa: ")


def test_links_of_the_guide_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", GUIDE) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]
