"""Prior grids that a head keeps: equal to new ones, few, unchanged, and no part of the head."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmdet")

from mmdet.models.task_modules.prior_generators import anchor_inside_flags  # noqa: E402

from assigners.types import Priors  # noqa: E402
from models.prior_grid import RECENT_FLAGS, RECENT_GRIDS, Recent  # noqa: E402
from models.teachers import teacher_adapter  # noqa: E402
from tests.support.waits import Operations  # noqa: E402

from .dense_cases import HEADS, HeadStep, build  # noqa: E402
from .head_cases import head_config  # noqa: E402
from .point_cases import LEVELS, make_instances, make_metas  # noqa: E402

STRIDES = (8, 16, 32)
PADDED = ((128, 160), (160, 128), (96, 256), (32, 32), (128, 160))
"""Sizes of batches in pixels; the last one comes again."""


def levels_of(padded: tuple[int, int]) -> list[tuple[int, int]]:
    return [(padded[0] // stride, padded[1] // stride) for stride in STRIDES]


def metas_of(padded: tuple[int, int], shift: int) -> list[dict[str, Any]]:
    """Three images: the whole size, and two smaller that differ with ``shift``."""
    height, width = padded
    shapes = ((height, width), (height - 12 * shift, width), (height, width - 12 * shift))
    return [
        dict(img_shape=(*shape, 3), pad_shape=(-(-shape[0] // 16) * 16, -(-shape[1] // 16) * 16, 3))
        for shape in shapes
    ]


def expected_priors(head: Any, padded: tuple[int, int], metas: list[dict[str, Any]]) -> Priors:
    """The priors of a batch, straight from mmdet's functions."""
    generator, sizes = head.prior_generator, levels_of(padded)
    levels = generator.grid_priors(sizes, device="cpu")
    rows = torch.cat(levels)
    counts = [len(level) for level in levels]
    level = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    anchors = rows if rows.shape[1] == 4 else None
    points = rows if anchors is None else (anchors[:, :2] + anchors[:, 2:]) / 2
    valid = [torch.ones(len(rows), dtype=torch.bool)] * len(metas)
    if head.assignment_kind == "hard":
        border = head.train_cfg.get("allowed_border", -1)
        inside = [torch.cat(generator.valid_flags(sizes, m["pad_shape"], "cpu")) for m in metas]
        valid = [
            anchor_inside_flags(rows, flags, meta["img_shape"][:2], border)
            for flags, meta in zip(inside, metas)
        ]
    return Priors(
        points=points,
        strides=torch.tensor([float(s) for s in STRIDES])[level],
        level=level,
        valid=torch.stack(valid),
        level_sizes=tuple(counts),
        boxes=anchors if head.assignment_kind == "hard" else None,
    )


def tensors_of(priors: Priors) -> dict[str, Tensor]:
    values = {field.name: getattr(priors, field.name) for field in fields(priors)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def assert_same(found: Priors, expected: Priors) -> None:
    assert found.level_sizes == expected.level_sizes
    ours, theirs = tensors_of(found), tensors_of(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name


def with_border(border: int) -> Any:
    """PAA's head, the only one that has a border."""
    train_cfg = head_config()["train_cfg"]
    train_cfg["allowed_border"] = border
    return build("PAA", train_cfg=train_cfg)


@pytest.mark.parametrize("name", [*HEADS, 0, 16])
def test_kept_priors_equal_new_ones(name: str | int) -> None:
    """Sizes and the shapes of images alternate; each batch comes several times. A number is PAA's
    border."""
    head = with_border(name) if isinstance(name, int) else build(name)
    for shift in (0, 1, 2, 1):
        for padded in PADDED:
            metas = metas_of(padded, shift)
            found = head.build_priors(levels_of(padded), metas, "cpu")
            assert_same(found, expected_priors(head, padded, metas))
            again = head.build_priors(levels_of(padded), metas, torch.device("cpu"))
            assert again.points is found.points and again.level is found.level
            assert_same(again, found)


@pytest.mark.parametrize("name", HEADS)
def test_kept_priors_cost_next_to_nothing(name: str) -> None:
    head, metas = build(name), make_metas(16)
    head.build_priors(LEVELS, metas, "cpu")
    with Operations() as count:
        head.build_priors(LEVELS, metas, "cpu")
    assert count.operations <= 5 and count.waits.total() == 0


@pytest.mark.parametrize("name", ["PAA", "DW"])
def test_every_level_counts(name: str) -> None:
    """Sizes of batches that differ on the last level only."""
    head, meta = build(name), dict(img_shape=(128, 160), pad_shape=(128, 160))
    for last in ((4, 5), (5, 5), (5, 4), (4, 5)):
        priors = head.build_priors([*LEVELS[:2], last], [meta], "cpu")
        assert priors.level_sizes == (320, 80, last[0] * last[1])
        inside = (priors.points < torch.tensor([160, 128])).all(1)
        assert torch.equal(priors.valid[0], inside) or name == "DW"


def test_a_changed_border_is_seen() -> None:
    head = with_border(0)
    inner = head.build_priors(LEVELS, make_metas(1), "cpu").valid
    head.train_cfg["allowed_border"] = -1
    assert head.build_priors(LEVELS, make_metas(1), "cpu").valid.all() and not inner.all()


@pytest.mark.parametrize("images", [[0], [0, 2], [1]])
@pytest.mark.parametrize("name", HEADS)
def test_a_step_does_not_write_to_the_priors(name: str, images: list[int]) -> None:
    """In place would be for all later batches. With one image, views replace most copies."""
    head = build(name)
    kept = tensors_of(head.build_priors(LEVELS, make_metas(len(images)), "cpu"))
    kept.update({f"grid {k}": v for k, v in tensors_of(head.prior_grid(LEVELS, "cpu")).items()})
    before = {key: (value._version, value.clone()) for key, value in kept.items()}
    step = HeadStep(head, images)
    step.begin()
    step.assign()
    sum(step.losses().values()).backward()
    head.loss_by_feat(*head(step.features), make_instances(images), step.metas, None)
    teacher_adapter(head).dense_predictions(step.outs, step.metas)
    for key, (version, value) in before.items():
        assert kept[key]._version == version and torch.equal(kept[key], value), key
    assert step.priors.points is kept["points"]


def test_writing_to_the_validity_of_a_batch_is_its_own_affair() -> None:
    for name in HEADS:
        head = build(name)
        head.build_priors(LEVELS, make_metas(1), "cpu").valid[:] = False
        assert head.build_priors(LEVELS, make_metas(1), "cpu").valid.all()


def test_grids_are_few() -> None:
    head = build("PAA")
    for cells in range(4, 4 + 2 * RECENT_GRIDS):
        sizes = [(4 * cells, 16), (2 * cells, 8), (cells, 4)]
        metas = [
            dict(img_shape=(16 * rows, 64), pad_shape=(16 * rows, 64)) for rows in range(1, 33)
        ]
        head.build_priors(sizes, metas, "cpu")
    assert len(head._grids) == RECENT_GRIDS and len(head._valid_flags) == RECENT_FLAGS


def test_the_value_unused_for_longest_goes() -> None:
    recent: Recent[int] = Recent(2)
    built: list[str] = []

    def get(key: str) -> None:
        assert recent.get(key, lambda: built.append(key) or len(built)) > 0

    for key in "abacab":
        get(key)
    assert "".join(built) == "abcb" and len(recent) == 2


def test_devices_have_grids_of_their_own() -> None:
    head = build("DW")
    for device in ("cpu", "meta", "cpu", "meta"):
        priors = head.build_priors(LEVELS, make_metas(2), device)
        assert {value.device.type for value in tensors_of(priors).values()} == {device}
    assert len(head._grids) == 2


@pytest.mark.parametrize("name", HEADS)
def test_kept_grids_are_no_part_of_the_head(name: str) -> None:
    head = build(name)
    state, buffers = list(head.state_dict()), len(list(head.buffers()))
    head.build_priors(LEVELS, make_metas(2), "cpu")
    assert list(head.state_dict()) == state and len(list(head.buffers())) == buffers
    other = copy.deepcopy(head)
    assert len(other._grids) == 0 and len(head._grids) == 1
    expected = expected_priors(head, (128, 160), make_metas(2))
    assert_same(other.build_priors(LEVELS, make_metas(2), "cpu"), expected)


def test_a_pickle_brings_back_none() -> None:
    recent: Recent[Tensor] = Recent(3)
    recent.get("key", lambda: torch.ones(5000))
    stream = io.BytesIO()
    torch.save(recent, stream)
    assert stream.tell() < 5000
    for other in (pickle.loads(pickle.dumps(recent)), copy.copy(recent)):
        assert len(other) == 0 and other.limit == 3


@pytest.mark.parametrize("name", HEADS)
def test_priors_built_in_inference_mode_serve_training(name: str) -> None:
    head = build(name)
    with torch.inference_mode():
        head.build_priors(LEVELS, make_metas(2), "cpu")
    step = HeadStep(head, [0, 2])
    step.begin()
    step.assign()
    sum(step.losses().values()).backward()
