"""Several ranks per network, and the GPUs they get."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import final_weights, processes

pytestmark = pytest.mark.ray

Train = Callable[..., tuple[Any, Path]]

# Group normalisation: batch statistics would differ between two halves and the whole of a batch.
NO_BATCH_STATISTICS = [
    f"networks.{name}.model.backbone.norm_cfg={{'type': 'GN', 'num_groups': 4}}"
    for name in ("r18", "r34")
]
PLAIN_SGD = [
    "train.optimizer={'_delete_': True, 'type': 'SGD', 'lr': 0.01}",
    "train.param_scheduler=[]",
    "train.clip_grad=None",
    "train.max_iterations=3",
]


def assert_close_weights(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Equal up to the order of float32 sums; and both have moved."""
    import torch

    assert left.keys() == right.keys()
    for name in left:
        for key, value in left[name].items():
            torch.testing.assert_close(value, right[name][key], rtol=1e-4, atol=2e-6, msg=key)


@pytest.mark.parametrize("scope", ["gt_level", "iteration"])
def test_two_ranks_equal_one(train: Train, scope: str) -> None:
    common = [*NO_BATCH_STATISTICS, *PLAIN_SGD, f"switch.scope={scope}"]
    _, one = train(*common, name="one")
    _, two = train(*common, "resources.ranks=2", "resources.cpus_per_network=0.2", name="two")
    assert_close_weights(final_weights(one), final_weights(two))


SOFT_AND_COP = ["soft_labels.gamma=0.5", "networks.r34.model.bbox_head.aux_cop=True"]


@pytest.mark.parametrize("fields", [[], SOFT_AND_COP], ids=["plain", "soft-cop"])
def test_one_rank_without_ground_truths(
    train: Train, shapes_root: Path, tmp_path: Path, fields: list[str]
) -> None:
    from orchestrator.data.shapes import make_shapes
    from orchestrator.feed import BatchOrder

    make_shapes(shapes_root, train=32, val=8, size=64)
    content = json.loads((shapes_root / "train.json").read_text())
    content["images"] = content["images"][:12]
    order = BatchOrder(12, 4, seed=0)
    second_shard = [index for position in range(3) for _, index in order.keys(position)[2:]]
    empty = {content["images"][index]["id"] for index in second_shard}
    kept = {image["id"] for image in content["images"]} - empty
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    half_empty = tmp_path / "half_empty.json"
    half_empty.write_text(json.dumps(content))
    common = [*NO_BATCH_STATISTICS, *PLAIN_SGD, f"data.train={half_empty}", *fields]
    _, one = train(*common, name="one")
    _, two = train(*common, "resources.ranks=2", "resources.cpus_per_network=0.2", name="two")
    assert_close_weights(final_weights(one), final_weights(two))


def test_every_rank_has_a_gpu_of_its_own(train: Train) -> None:
    """Logical GPUs: Ray hands out ids; without CUDA the networks then run on the CPU."""
    _, run_dir = train(
        "resources.gpus_per_network=1",
        "resources.ranks=2",
        "resources.cpus_per_network=0.2",
        "train.max_iterations=1",
    )
    placed = processes(run_dir)["networks"]
    ids = [rank["gpu_ids"] for ranks in placed.values() for rank in ranks]
    assert [len(own) for own in ids] == [1, 1, 1, 1]
    assert len({own[0] for own in ids}) == 4
