"""Multi-scale training: sizes between two, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import DataConfig
from orchestrator.config_file import load_config
from orchestrator.data.shapes import make_shapes
from orchestrator.datasets import build_dataset, prepare_data
from orchestrator.errors import ConfigError
from orchestrator.feed import Feeder, batch_order
from orchestrator.launcher import feed_store_bytes
from tests.support.runs import ROOT

COCO = ROOT / "configs" / "coco"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("own"), train=8, val=2, size=64)


def sizes(root: Path, cache: Path, overrides: list[str]) -> list[tuple[int, int]]:
    """(height, width) of the images of the first two batches of configs/coco/paa_r50_3x_ms.py."""
    here = [f"data.root={root}", "data.train=train.json", "data.val=val.json", "feed.workers=0"]
    folders = ["data.train_images=images", "data.val_images=images", "train.batch_size=4"]
    config = load_config(COCO / "paa_r50_3x_ms.py", [*here, *folders, *overrides])
    data = prepare_data(config.data, cache)
    dataset = build_dataset(config.data, data.train, data.classes, train=True)
    feeder = Feeder(dataset, batch_order(config, dataset), seed=config.seed)
    batches = [feeder.batch(position) for position in (0, 1)]
    return [(int(s[1]), int(s[2])) for batch in batches for s in batch.shapes]


def test_sizes_lie_between_the_two_and_follow_the_seed(root: Path, tmp_path: Path) -> None:
    paper = sizes(root, tmp_path, [])
    assert all(640 <= min(size) <= 800 and size[0] == size[1] for size in paper)
    assert len(set(paper)) > 4
    assert sizes(root, tmp_path, []) == paper
    assert sizes(root, tmp_path, ["seed=1"]) != paper
    assert (
        sizes(root, tmp_path, ["data.train_scales=None", "data.scale=(96, 80)"]) == [(80, 80)] * 8
    )


def test_testing_keeps_its_one_scale(root: Path, tmp_path: Path) -> None:
    data = DataConfig(
        root=str(root), images="images", scale=(96, 80), train_scales=((96, 40), (96, 64))
    )
    prepared = prepare_data(data, tmp_path)
    dataset = build_dataset(data, prepared.val, prepared.classes, train=False)
    assert tuple(dataset[0]["inputs"].shape) == (3, 80, 80)


def test_the_object_store_is_reckoned_for_the_largest_size() -> None:
    wide = COCO / "autoassign_x101-dcn_2x_ms_wide.py"
    narrow = load_config(wide, ["data.train_scales=None", "data.scale=(1333, 960)"])
    assert feed_store_bytes(load_config(wide), 80) == feed_store_bytes(narrow, 80)


def test_contradictions_are_refused() -> None:
    scales = ((64, 32), (64, 48))
    with pytest.raises(ConfigError, match="data.train_scales.*with data.train_pipeline"):
        DataConfig(root="x", train_scales=scales, train_pipeline=[dict(type="LoadImageFromFile")])
    with pytest.raises(ConfigError, match="data.train_scales"):
        DataConfig(root="x", train_scales=((64, 0), (64, 48)))
    with pytest.raises(ConfigError, match="data.train_scales.*expected 2 values"):
        load_config(COCO / "paa_r50_1x.py", ["data.train_scales=[(64, 32)]"])


def test_names_with_an_underscore_are_no_fields(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(f'_base_ = ["{COCO / "paa_r18_1x.py"}"]\n_mine = dict(a=1)\nseed = 3\n')
    assert load_config(file).seed == 3
    file.write_text(file.read_text().replace("_mine", "mine"))
    with pytest.raises(ConfigError, match="unknown field mine"):
        load_config(file)
