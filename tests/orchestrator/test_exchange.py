"""What crosses between networks, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assigners.types import Candidates, CostTable
from orchestrator import exchange
from orchestrator.errors import CandidateMismatchError, NonFiniteCostError
from orchestrator.exchange import PackedTable


def candidates(rows: int = 6) -> Candidates:
    gt = torch.arange(rows) // 2
    return Candidates(image=gt // 2, gt=gt, prior=torch.arange(rows), level=gt * 0)


def packed(**changes: object) -> PackedTable:
    table = CostTable(cost=torch.rand(6), columns={"iou": torch.rand(6)})
    one = exchange.pack(table, network="a", batch_id="0.3.0", digest="d")
    return PackedTable(**{**vars(one), **changes})  # type: ignore[arg-type]


def check(table: PackedTable) -> None:
    exchange.check(table, reader="b", batch_id="0.3.0", digest="d", image_ids=[7, 8])


def test_float32_survives_bit_for_bit() -> None:
    cost = torch.rand(1000) * torch.logspace(-20, 20, 1000)
    table = CostTable(cost=cost.requires_grad_(), columns={"iou": torch.rand(1000)})
    there = exchange.pack(table, network="a", batch_id="b", digest="d")
    back = exchange.unpack(there, torch.device("cpu"))
    assert torch.equal(back.cost, cost.detach()) and not back.cost.requires_grad
    assert torch.equal(back.columns["iou"], table.columns["iou"])
    assert there.payload_bytes == 2 * 1000 * 4


def test_empty_table_crosses() -> None:
    table = CostTable(cost=torch.zeros(0))
    back = exchange.unpack(
        exchange.pack(table, network="a", batch_id="b", digest="d"), torch.device("cpu")
    )
    assert back.cost.shape == (0,)


def test_digest_tells_pairs_apart() -> None:
    one = candidates()
    other = Candidates(image=one.image, gt=one.gt, prior=one.prior.flip(0), level=one.level)
    assert exchange.candidates_digest(one) == exchange.candidates_digest(candidates())
    assert exchange.candidates_digest(one) != exchange.candidates_digest(other)


def test_matching_table_passes() -> None:
    check(packed())


def test_other_batch_is_refused() -> None:
    with pytest.raises(
        CandidateMismatchError, match="'b' is at batch 0.3.0 .*'a' are of batch 0.4"
    ):
        check(packed(batch_id="0.4.0"))


def test_other_pairs_are_refused() -> None:
    with pytest.raises(CandidateMismatchError, match="same strides, anchors"):
        check(packed(candidates_digest="e"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["cost", "iou"])
def test_non_finite_rows_are_refused(column: str, value: float) -> None:
    table = packed()
    (table.cost if column == "cost" else table.columns[column])[2] = value
    with pytest.raises(NonFiniteCostError, match=rf"'a': {column} .*batch 0.3.0.*\[7, 8\]"):
        check(table)
