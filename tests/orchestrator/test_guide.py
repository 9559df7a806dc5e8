"""The code of docs/guide.md runs, and the commands that README and docs show exist as shown."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from assigners import ASSIGNERS
from orchestrator.cli import app
from orchestrator.config_file import load_config
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


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """(file, words) of every colad command in a block of README and docs."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(r"```(?:bash|sh)?\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.match(r"(?:.*; do )?(colad [^#;|(]*)", line)
                if command:
                    yield path.name, shlex.split(command[1])[1:]


def test_commands_that_are_shown_exist() -> None:
    """Names and options; placeholders and synopses (``[--out DIR]``) are passed over."""
    main = typer.main.get_command(app)
    seen = 0
    for file, words in shown_commands():
        command = main
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands"), f"{file}: colad {' '.join(words)}"
        known = {name for parameter in command.params for name in parameter.opts}
        given = {word.strip("[]") for word in words if word.strip("[]").startswith("--")}
        assert given <= known | {"--help"}, f"{file}: {command.name} {given - known}"
        seen += 1
    assert seen > 40
