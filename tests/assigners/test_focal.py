import math

import pytest
import torch

from assigners.focal import focal_cost, focal_terms


def test_literal_value() -> None:
    # p = 1/2 for both classes: 1/4 * 1/4 * ln 2 for the label, 3/4 * 1/4 * ln 2 for the other.
    cost = focal_cost(torch.zeros(1, 2), torch.tensor([1]))
    assert cost.item() == pytest.approx(math.log(2) / 4)


def test_equals_mmdet_loss() -> None:
    losses = pytest.importorskip("mmdet.models.losses")
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 4
    labels = torch.arange(50) % 7
    loss = losses.FocalLoss(use_sigmoid=True, gamma=1.5, alpha=0.3)
    expected = loss(logits, labels, reduction_override="none").sum(-1)
    torch.testing.assert_close(focal_cost(logits, labels, alpha=0.3, gamma=1.5), expected)


def test_probabilities_equal_logits() -> None:
    logits = torch.linspace(-6, 6, 40).view(10, 4)
    labels = torch.arange(10) % 4
    torch.testing.assert_close(
        focal_cost(logits.sigmoid(), labels, is_prob=True),
        focal_cost(logits, labels),
        rtol=1e-4,
        atol=1e-6,
    )


def test_certain_mistakes_are_clamped() -> None:
    prob = torch.tensor([[0.0, 1.0]], requires_grad=True)
    cost = focal_cost(prob, torch.tensor([0]), is_prob=True)
    assert cost.item() == pytest.approx(0.25 * 100 + 0.75 * 100)
    cost.sum().backward()
    assert prob.grad is not None and torch.isfinite(prob.grad).all()


def test_nan_stays_visible() -> None:
    nan = torch.tensor([[float("nan")]])
    assert focal_cost(nan, torch.tensor([0]), is_prob=True).isnan().all()
    assert focal_cost(nan, torch.tensor([0])).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast_up(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.tensor([0, 1, 2, 0])
    cost = focal_cost(logits, labels)
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, focal_cost(logits.float(), labels), rtol=0, atol=0)


def test_gradient_of_both_terms() -> None:
    logits = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for is_prob, values in ((False, logits), (True, logits.sigmoid())):
        values = values.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, p=is_prob: focal_terms(x, is_prob=p), (values,))
