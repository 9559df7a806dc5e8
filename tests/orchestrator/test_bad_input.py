"""Malformed input: one screen that names file and field, exit code 2, no traceback, no hanging."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from orchestrator import cli, preflight
from tests.corpus.base import Base, Case, make_base
from tests.corpus.cases import CASES, folder_of

SCREEN_LINES = 24
SCREEN_COLUMNS = 100
PATIENCE_S = 30


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """What hangs fails, with the place where it hung."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {PATIENCE_S} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def test_there_are_enough_and_all_differ() -> None:
    names = [case.name for case in CASES]
    assert len(names) >= 60 and len(names) == len(set(names))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_message(
    case: Case,
    base: Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def accepted(*_: object) -> None:
        raise AssertionError("the input was accepted: Ray would start now")

    monkeypatch.setattr(preflight, "connected", accepted)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = folder_of(case, tmp_path)
    folder.mkdir()
    command = case.make(base, folder)
    monkeypatch.setattr(sys, "argv", ["colad", *command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr().err
    assert ended.value.code == 2, said
    assert "Traceback" not in said
    rows = sum(-(-max(len(line), 1) // SCREEN_COLUMNS) for line in said.splitlines())
    assert 0 < rows <= SCREEN_LINES, said
    missing = [text for text in case.says if text not in said]
    assert not missing, f"{missing} not in: {said}"
