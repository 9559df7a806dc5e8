import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assigners.boxes import aligned_giou, aligned_iou, pairwise_giou, pairwise_iou

LEFT = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
RIGHT = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [20.0, 0.0, 30.0, 10.0]])


def test_literal_overlaps() -> None:
    torch.testing.assert_close(aligned_iou(LEFT, RIGHT), torch.tensor([1.0, 1 / 3, 0.0]))
    # Enclosing boxes 100, 150, 300; unions 100, 150, 200.
    torch.testing.assert_close(aligned_giou(LEFT, RIGHT), torch.tensor([1.0, 1 / 3, -1 / 3]))


def test_degenerate_boxes_overlap_nothing() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert aligned_iou(point, LEFT[:1]).item() == 0
    assert aligned_iou(point, point).item() == 0
    assert torch.isfinite(aligned_giou(point, point)).all()


def test_empty_sets() -> None:
    none = torch.zeros(0, 4)
    assert pairwise_iou(none, LEFT).shape == (0, 3)
    assert aligned_giou(none, none).shape == (0,)


def test_empty_selection_keeps_the_graph() -> None:
    boxes = LEFT.clone().requires_grad_()
    aligned_giou(boxes[:0], RIGHT[:0]).sum().backward()
    assert boxes.grad is not None and not boxes.grad.any()


@given(st.integers(0, 2**31))
def test_equals_mmdet_bit_for_bit(seed: int) -> None:
    overlaps = pytest.importorskip("mmdet.structures.bbox").bbox_overlaps
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 5, 2, generator=generator) * 50
    first, second = torch.cat([corner, corner + torch.rand(2, 5, 2, generator=generator) * 40], -1)
    for ours, mode, aligned in (
        (pairwise_iou, "iou", False),
        (pairwise_giou, "giou", False),
        (aligned_iou, "iou", True),
        (aligned_giou, "giou", True),
    ):
        assert torch.equal(
            ours(first, second), overlaps(first, second, mode=mode, is_aligned=aligned)
        )
