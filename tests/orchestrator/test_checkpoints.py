"""A checkpoint is whole or is none, and says what is wrong with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator import checkpoints
from orchestrator.checkpoints import (
    CheckpointState,
    find_checkpoints,
    latest_valid,
    read_part,
    read_state,
    verify,
    write_checkpoint,
)
from orchestrator.errors import CheckpointError

PARTS = {"r50.pt": b"weights of r50" * 100, "r101.pt": memoryview(b"weights of r101" * 200)}


def _state(iteration: int) -> CheckpointState:
    return CheckpointState(
        iteration=iteration,
        config_digest="d1",
        networks=("r50", "r101"),
        extra={"epoch": 3, "best": {"r50": 41.5}},
    )


def _flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = write_checkpoint(tmp_path / "deep" / "c1", PARTS, _state(10))
    folder = tmp_path / "deep" / "c1"
    verify(folder)
    assert read_state(folder) == written
    assert written.extra == {"epoch": 3, "best": {"r50": 41.5}}
    assert {name: read_part(folder, name) for name in PARTS} == {
        k: bytes(v) for k, v in PARTS.items()
    }
    assert sorted(os.listdir(tmp_path / "deep")) == ["c1"]


def test_an_empty_folder_given_as_place_is_used(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    write_checkpoint(tmp_path / "c", PARTS, _state(1))
    verify(tmp_path / "c")


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", PARTS, _state(1))
    write_checkpoint(tmp_path / "c", {"only.pt": b"x"}, _state(2))
    assert read_state(tmp_path / "c").iteration == 2
    assert sorted(os.listdir(tmp_path / "c")) == ["only.pt", "state.json"]
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.parametrize("name", ["state.json", "../x", "a/b", "", ".hidden"])
def test_part_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="not a usable file name"):
        write_checkpoint(tmp_path / "c", {name: b""}, _state(1))


class _Killed(BaseException):
    """Stands for the death of the process: nothing that the code catches."""


@pytest.mark.parametrize(("dies_at", "replaces"), [(1, False), (1, True), (2, True)])
def test_failed_rename_leaves_the_old_checkpoint_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int, replaces: bool
) -> None:
    if replaces:
        write_checkpoint(tmp_path / "c", PARTS, _state(1))
    calls = 0
    real = os.replace

    def replace(src: Path, dst: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise OSError(28, "No space left on device")
        real(src, dst)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CheckpointError, match="No space left"):
        write_checkpoint(tmp_path / "c", PARTS, _state(2))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["c"] if replaces else [])
    found = find_checkpoints(tmp_path)
    assert [read_state(c).iteration for c in found] == ([1] if replaces else [])


@pytest.mark.parametrize("replaces", [False, True])
def test_killed_process_leaves_nothing_that_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaces: bool
) -> None:
    """A real kill runs no cleanup: rmtree is disabled, and what is left must not be mistaken."""
    if replaces:
        write_checkpoint(tmp_path / "c", PARTS, _state(1))

    def die(*_: object, **__: object) -> None:
        raise _Killed

    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda *a, **k: None)
    with pytest.raises(_Killed):
        write_checkpoint(tmp_path / "c", PARTS, _state(2))
    monkeypatch.undo()
    found = find_checkpoints(tmp_path)
    assert [read_state(c).iteration for c in found] == ([1] if replaces else [])
    assert len(os.listdir(tmp_path)) == 1 + replaces  # the unfinished folder is still there
    write_checkpoint(tmp_path / "c", PARTS, _state(2))
    assert os.listdir(tmp_path) == ["c"]


def test_verify_names_file_and_reason(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    write_checkpoint(folder, PARTS, _state(1))
    _flip_bit(folder / "r50.pt")
    with pytest.raises(CheckpointError, match=r"r50\.pt: checksum differs"):
        verify(folder)
    with pytest.raises(CheckpointError, match=r"r50\.pt: checksum differs"):
        read_part(folder, "r50.pt")
    write_checkpoint(folder, PARTS, _state(1))
    os.truncate(folder / "r101.pt", 100)
    with pytest.raises(CheckpointError, match=r"r101\.pt: truncated, 100 bytes instead of 3000"):
        verify(folder)
    (folder / "r101.pt").unlink()
    with pytest.raises(CheckpointError, match=r"r101\.pt: missing"):
        verify(folder)
    with pytest.raises(CheckpointError, match=r"r101\.pt: missing"):
        read_part(folder, "r101.pt")
    with pytest.raises(CheckpointError, match="has no part 'r18.pt'"):
        read_part(folder, "r18.pt")


def test_unreadable_states_are_explained(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        read_state(folder)
    write_checkpoint(folder, PARTS, _state(1))
    raw = json.loads((folder / "state.json").read_text())
    cases = {
        '{"format": ': "cannot be read",
        "[" * 100_000: "RecursionError",
        json.dumps(raw | {"iteration": float("inf")}): "inf is no count",
        json.dumps(raw | {"iteration": 10**300}): "is no count",
        json.dumps(raw | {"files": {"r50.pt": {"size": -1, "sha256": ""}}}): "-1 is no count",
        "[1]": "not the state",
        json.dumps(raw | {"format_version": 99}): "format version 99",
        json.dumps({k: v for k, v in raw.items() if k != "files"}): "damaged: KeyError",
        json.dumps(raw | {"files": {"r50.pt": 3}}): "damaged: TypeError",
    }
    for text, match in cases.items():
        (folder / "state.json").write_text(text)
        with pytest.raises(CheckpointError, match=match):
            read_state(folder)


def test_search_sorts_by_iteration_and_passes_over_damage(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert find_checkpoints(tmp_path / "nowhere") == []
    assert latest_valid(tmp_path / "nowhere", warnings.append) is None
    for name, iteration in (("z", 5), ("trial/a", 40), ("trial/b", 300), ("m", 20)):
        write_checkpoint(tmp_path / name, PARTS, _state(iteration))
    found = find_checkpoints(tmp_path)
    assert [read_state(c).iteration for c in found] == [5, 20, 40, 300]
    assert find_checkpoints(tmp_path / "m") == [tmp_path / "m"]
    assert latest_valid(tmp_path, warnings.append) == tmp_path / "trial/b"
    assert warnings == []

    _flip_bit(tmp_path / "trial/b/r50.pt")
    (tmp_path / "trial/a/state.json").write_text("[" * 100_000)
    assert latest_valid(tmp_path, warnings.append) == tmp_path / "m"
    assert len(warnings) == 2
    assert any("trial/b/r50.pt: checksum" in w for w in warnings)
    assert any("trial/a/state.json: cannot be read" in w for w in warnings)
    assert [read_state(c).iteration for c in find_checkpoints(tmp_path)] == [5, 20, 300]
    (tmp_path / "trial/a/state.json").unlink()  # and one whose state is missing
    warnings.clear()
    assert latest_valid(tmp_path, warnings.append) == tmp_path / "m"
    assert any("trial/a: state.json is missing" in w for w in warnings)


def test_if_all_are_damaged_nothing_begins_anew(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, PARTS, _state(1))
        _flip_bit(tmp_path / name / "r50.pt")
    with pytest.raises(CheckpointError, match=r"no intact checkpoint, 2 damaged: .*/[ab]/r50\.pt"):
        latest_valid(tmp_path, pytest.fail)


def test_of_equal_iterations_the_last_written_wins(tmp_path: Path) -> None:
    for name, time_s in (("b", 100), ("a", 300), ("c", 200)):
        write_checkpoint(tmp_path / name, PARTS, _state(7))
        os.utime(tmp_path / name / "state.json", (time_s, time_s))
    assert [c.name for c in find_checkpoints(tmp_path)] == ["b", "c", "a"]
    assert latest_valid(tmp_path, pytest.fail) == tmp_path / "a"
