"""Which checkpoints of a run are kept, and what damage and a full disk do to them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.checkpoint_store import CheckpointStore
from orchestrator.checkpoints import CheckpointState, find_checkpoints, read_state
from orchestrator.config import RunConfig
from orchestrator.config_file import load_config, save_config
from orchestrator.data.shapes import make_shapes
from orchestrator.errors import CheckpointError, ConfigError
from orchestrator.local_run import run_locally
from orchestrator.runlog import RunLog
from orchestrator.saved_runs import open_run
from orchestrator.sweep.trial import trial_store
from orchestrator.trainer import CoTrainer
from tests.support.runs import ROOT, SMALL, assert_equal_weights, final_weights

PAA = ROOT / "configs" / "tiny" / "paa.py"


def save(store: CheckpointStore, iteration: int) -> None:
    state = CheckpointState(iteration=iteration, config_digest="d", networks=("r18",))
    store.save({"r18-rank0.pt": b"weights" * iteration}, state)


def kept(folder: Path) -> list[int]:
    return [read_state(path).iteration for path in find_checkpoints(folder)]


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    scores = {10: 40.0, 20: 55.0, 30: 45.0, 40: float("nan")}
    store = CheckpointStore(tmp_path, keep=2, keep_best=1, scores=lambda: scores)
    for iteration in (10, 20, 30, 40, 50):
        save(store, iteration)
    assert kept(tmp_path) == [20, 40, 50]
    scores[50] = 60.0
    save(store, 60)
    assert kept(tmp_path) == [50, 60], "the best may be one of the newest"


@pytest.mark.parametrize(("population", "expected"), [(False, [10, 30]), (True, [30])])
def test_a_trial_of_a_sweep_keeps_its_best(
    population: bool, expected: list[int], tmp_path: Path
) -> None:
    config = load_config(ROOT / "configs/tiny/paa_shapes.py", ["checkpoint.keep=1"])
    save_config(config, tmp_path / "config.py")
    log = RunLog(tmp_path)
    log.log_evaluation(
        [dict(iteration=n, network="r18", split="val", AP=50.0 - n) for n in (10, 20, 30)]
    )
    log.close()
    store = trial_store(tmp_path, population=population)
    for iteration in (10, 20, 30):
        save(store, iteration)
    assert kept(tmp_path / "checkpoints") == expected


def test_the_one_just_written_is_never_removed(tmp_path: Path) -> None:
    """Those beyond it are damaged ones that the run passed over when it went on from an earlier."""
    store = CheckpointStore(tmp_path, keep=1)
    for iteration in (10, 20):
        save(CheckpointStore(tmp_path, keep=2), iteration)
    save(store, 15)
    assert kept(tmp_path) == [15, 20]
    save(store, 20)
    assert kept(tmp_path) == [20]


def test_names_of_an_older_version_are_pruned_too(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path, keep=1), 10)
    (tmp_path / "checkpoint_000000010").rename(tmp_path / "iteration_000000010")
    save(CheckpointStore(tmp_path, keep=1), 10)
    assert os.listdir(tmp_path) == ["checkpoint_000000010"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("interval_minutes=0", "checkpoint.interval_minutes = 0"),
        ("keep_best=-1", "checkpoint.keep_best = -1"),
        ("best_metric=mAP", "checkpoint.best_metric = 'mAP': expected one of 'AP'"),
        ("on_error=ignore", "checkpoint.on_error = 'ignore': expected one of 'stop', 'warn'"),
    ],
)
def test_wrong_settings_are_named(field: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(PAA, ["data.root=x", f"checkpoint.{field}"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("store") / "shapes", train=8, val=4, size=64)


def small(dataset: Path, *more: str) -> RunConfig:
    overrides = [item for item in SMALL if not item.startswith(("networks.r34", "data.shapes"))]
    return load_config(PAA, [f"data.root={dataset}", *overrides, "train.max_iterations=6", *more])


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints after iterations 2, 4 and 6."""
    run_dir = tmp_path_factory.mktemp("store") / "run"
    run_locally(small(dataset, "checkpoint.interval=2", "checkpoint.keep=3"), run_dir)
    assert kept(run_dir) == [2, 4, 6]
    return run_dir


def damage(folder: Path, how: str) -> None:
    part = folder / "r18-rank0.pt"
    if how == "truncated":
        os.truncate(part, part.stat().st_size // 2)
    elif how == "flipped":
        data = bytearray(part.read_bytes())
        data[len(data) // 3] ^= 1
        part.write_bytes(bytes(data))
    else:
        (folder / how).unlink()


@pytest.mark.parametrize("how", ["truncated", "flipped", "r18-rank0.pt", "state.json"])
def test_a_damaged_one_is_passed_over_and_the_weights_are_the_same(
    how: str,
    undisturbed: Path,
    dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed, run_dir)
    *_, newest = find_checkpoints(run_dir)
    damage(newest, how)
    assert open_run(run_dir).iteration == 4
    assert "passing over a damaged checkpoint" in caplog.text and newest.name in caplog.text
    run_locally(small(dataset, "checkpoint.interval=2", "checkpoint.keep=3"), run_dir, resume=True)
    assert_equal_weights(final_weights(run_dir), final_weights(undisturbed))
    assert kept(run_dir) == [2, 4, 6]


def test_no_intact_one_left(undisturbed: Path, dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed, run_dir)
    for folder in find_checkpoints(run_dir):
        damage(folder, "truncated")
    for use in (
        lambda: open_run(run_dir),
        lambda: run_locally(small(dataset), run_dir, resume=True),
    ):
        with pytest.raises(CheckpointError, match="no intact checkpoint, 3 damaged"):
            use()


def test_by_the_clock(undisturbed: Path, dataset: Path, tmp_path: Path) -> None:
    """A checkpoint as soon as the last is old enough, here after every iteration."""
    config = small(dataset, "checkpoint.interval_minutes=1e-6", "checkpoint.keep=9", "lookahead=3")
    run_locally(config, tmp_path)
    assert kept(tmp_path)[-1] == 6 and len(kept(tmp_path)) > 3
    assert_equal_weights(final_weights(tmp_path), final_weights(undisturbed))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MB of its own; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = sys.platform == "linux" and os.geteuid() == 0
    if made:
        command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)]
        made = subprocess.run(command, capture_output=True).returncode == 0
    if not made:
        pytest.skip("needs root on Linux, to mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill_after(disk: Path, iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all room on the disk once the checkpoint of an iteration is written; see ``free``."""
    real = CheckpointStore.save

    def then_fill(self: CheckpointStore, parts: object, state: CheckpointState) -> None:
        real(self, parts, state)  # type: ignore[arg-type]
        if state.iteration == iteration:
            with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(b"x" * 2**18)

    monkeypatch.setattr(CheckpointStore, "save", then_fill)


def test_full_disk_loses_no_checkpoint(
    undisturbed: Path, dataset: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = full_disk / "run"
    fill_after(full_disk, 2, monkeypatch)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left.*--resume"):
        run_locally(small(dataset, "checkpoint.interval=2"), run_dir)
    assert kept(run_dir) == [2]
    (full_disk / "ballast").unlink()
    monkeypatch.undo()
    run_locally(small(dataset, "checkpoint.interval=2"), run_dir, resume=True)
    assert_equal_weights(final_weights(run_dir), final_weights(undisturbed))


def test_full_disk_is_a_warning_where_that_is_wanted(
    undisturbed: Path,
    dataset: Path,
    full_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_dir = full_disk / "run"
    fill_after(full_disk, 2, monkeypatch)
    config = small(dataset, "checkpoint.interval=2", "checkpoint.on_error=warn")
    evaluate = CoTrainer._write

    def free_at_the_end(self: CoTrainer, write: object, *, required: bool = False) -> None:
        if required:
            (full_disk / "ballast").unlink()
        evaluate(self, write, required=required)  # type: ignore[arg-type]

    monkeypatch.setattr(CoTrainer, "_write", free_at_the_end)
    run_locally(config, run_dir)
    assert "training on" in caplog.text and "No space left" in caplog.text
    assert kept(run_dir) == [2, 6]
    assert_equal_weights(final_weights(run_dir), final_weights(undisturbed))
