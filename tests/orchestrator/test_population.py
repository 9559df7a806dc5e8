"""A trial takes over another's checkpoint, whole, once, and whatever dies meanwhile."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator.checkpoints import (
    CheckpointState,
    read_part,
    read_state,
    verify,
    write_checkpoint,
)
from orchestrator.config_file import load_config, save_config
from orchestrator.errors import CheckpointError
from orchestrator.sweep.population import (
    BEGUN_FILE,
    Change,
    Handover,
    current_params,
    finish_begun,
    has_changed,
    last_change,
    make_offer,
    read_offer,
    take_over,
    write_params,
)
from tests.support.steps import tiny_config


@pytest.fixture
def trials(tmp_path: Path) -> tuple[Path, Path]:
    """A weak and a strong trial with checkpoints of other weights and values."""
    for name, mu, weights in (("weak", 3.0, b"weak"), ("strong", 7.0, b"strong")):
        run_dir = tmp_path / name
        config = tiny_config("dw", [f"assigner.mu={mu}"])
        save_config(config, run_dir / "config.py")
        write_params(run_dir, {"assigner.mu": mu})
        for iteration in (4, 8):
            state = CheckpointState(
                iteration=iteration, config_digest=config.digest(), networks=("r18",)
            )
            folder = run_dir / "checkpoints" / f"checkpoint_{iteration:09d}"
            write_checkpoint(folder, {"r18-rank0.pt": weights}, state)
    return tmp_path / "weak", tmp_path / "strong"


def test_weights_and_values_change_together(trials: tuple[Path, Path]) -> None:
    weak, strong = trials
    offer = make_offer(strong, 4)
    assert read_offer(strong) == offer and offer.params == {"assigner.mu": 7.0}
    change = take_over(weak, offer, {"assigner.mu": 8.4})
    assert change == last_change(weak) and change is not None
    assert (change.source, change.iteration) == ("strong", 4)
    assert change.before == {"assigner.mu": 3.0} and change.source_params == {"assigner.mu": 7.0}
    (folder,) = (weak / "checkpoints").iterdir()
    verify(folder)
    assert read_part(folder, "r18-rank0.pt") == b"strong" and read_state(folder).iteration == 4
    config = load_config(weak / "config.py")
    assert config.assigner["mu"] == 8.4 and read_state(folder).config_digest == config.digest()
    assert current_params(weak) == {"assigner.mu": 8.4} and has_changed(weak)
    assert load_config(strong / "config.py").assigner["mu"] == 7.0  # untouched
    assert read_state(strong / "checkpoints" / "checkpoint_000000004").config_digest == (
        load_config(strong / "config.py").digest()
    )


def test_a_change_is_made_once(trials: tuple[Path, Path]) -> None:
    weak, strong = trials
    offer = make_offer(strong, 8)
    assert take_over(weak, offer, {"assigner.mu": 8.0}) is not None
    assert take_over(weak, offer, {"assigner.mu": 8.0}) is None
    assert take_over(weak, make_offer(strong, 8), {"assigner.mu": 5.0}) is not None


def test_a_pruned_checkpoint_is_replaced_by_the_newest(trials: tuple[Path, Path]) -> None:
    weak, strong = trials
    change = take_over(weak, make_offer(strong, 2), {"assigner.mu": 8.0})
    assert change is not None and change.iteration == 8


def test_a_begun_change_is_finished(trials: tuple[Path, Path]) -> None:
    """As after kill -9 between the notice and the copy, with half a copy lying there."""
    weak, _ = trials
    begun = Change(
        source="strong",
        token="t",
        iteration=8,
        before={"assigner.mu": 3.0},
        params={"assigner.mu": 6.0},
        source_params={"assigner.mu": 7.0},
    )
    (weak / BEGUN_FILE).write_text(json.dumps(asdict(begun)))
    (weak / "incoming").mkdir()
    assert current_params(weak) == {"assigner.mu": 6.0}
    assert finish_begun(weak) == begun and finish_begun(weak) is None
    assert load_config(weak / "config.py").assigner["mu"] == 6.0
    assert not (weak / "incoming").exists()


def test_nothing_to_take_over(trials: tuple[Path, Path], tmp_path: Path) -> None:
    weak, _ = trials
    (tmp_path / "empty").mkdir()
    offer = Handover(trial="empty", iteration=4, token="t", params={}, reported_s=0.0)
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        take_over(weak, offer, {"assigner.mu": 8.0})


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"trial": 3}', '{"iteration": "x"}'])
def test_damaged_notes_are_named(trials: tuple[Path, Path], content: str) -> None:
    weak, _ = trials
    (weak / "offer.json").write_text(content)
    (weak / "change.json").write_text(content)
    for name, read in (("offer", read_offer), ("change", last_change), ("change", current_params)):
        with pytest.raises(CheckpointError, match=rf"{name}\.json.*starts anew"):
            read(weak)
