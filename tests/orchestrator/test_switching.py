"""The switch on literal tables, its ties and edges, and ranks against one rank."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assigners import Candidates, CostTable
from assigners.mixture import fit_mixture
from orchestrator import switching
from orchestrator.errors import CandidateMismatchError, ConfigError
from orchestrator.switching import (
    SCOPES,
    Choice,
    SwitchRule,
    choose,
    compute_indicators,
)


def candidates(gt: list[int], level: list[int], image: list[int] | None = None) -> Candidates:
    return Candidates(
        image=torch.tensor(image if image is not None else [0] * len(gt), dtype=torch.int64),
        gt=torch.tensor(gt, dtype=torch.int64),
        prior=torch.arange(len(gt)),
        level=torch.tensor(level, dtype=torch.int64),
    )


def table(cost: list[float] | np.ndarray | Tensor, **columns: list[float]) -> CostTable:
    return CostTable(
        cost=torch.as_tensor(cost, dtype=torch.float32),
        columns={name: torch.tensor(values) for name, values in columns.items()},
    )


def one_group(*costs: list[float], rule: SwitchRule | None = None, **columns) -> Choice:
    """All rows in one (GT, level) group; the networks are called a, b, c ..."""
    size = len(costs[0])
    tables = {name: table(cost) for name, cost in zip("abcdef", costs)}
    for name, own in columns.items():
        tables[name] = table(tables[name].cost, owned=own)
    return choose(
        tables,
        candidates([0] * size, [0] * size),
        rule=rule or SwitchRule(),
        num_gts=1,
        num_images=1,
        num_levels=1,
    )


def test_larger_std_over_mean_wins() -> None:
    narrow, wide = [1.0, 1.1, 1.2], [1.0, 3.0, 5.0]
    assert one_group(narrow, wide).decisions.tolist() == [1]
    assert one_group(wide, narrow).decisions.tolist() == [0]
    # Scale does not matter: both have sigma/mu = 1/2 up to rounding.
    values = compute_indicators(
        [table([1.0, 2.0, 3.0]), table([10.0, 20.0, 30.0])],
        candidates([0] * 3, [0] * 3),
        scope="gt",
        num_gts=1,
        num_images=1,
    )
    torch.testing.assert_close(values.std_mean, torch.full((1, 2), 0.5, dtype=torch.float64))


def test_ties_go_to_the_network_listed_first() -> None:
    same = [1.0, 2.0, 4.0]
    assert one_group(same, same, same).decisions.tolist() == [0]
    assert one_group([1.0, 1.0, 1.0], same, same).decisions.tolist() == [1]
    assert one_group([2.0], [2.0]).decisions.tolist() == [0]


def test_single_costs_go_to_the_lower() -> None:
    assert one_group([2.0], [1.0]).decisions.tolist() == [1]
    assert one_group([2.0], [1.0], [0.5]).decisions.tolist() == [2]


def test_zero_mean_counts_as_zero() -> None:
    choice = one_group([0.0, 0.0], [1.0, 1.1])
    assert choice.decisions.tolist() == [1]
    assert one_group([0.0, 0.0], [0.0, 0.0]).decisions.tolist() == [0]
    assert torch.isfinite(choice.indicator).all()


def test_rows_are_copied_whole() -> None:
    tables = {
        "a": table([1.0, 1.0, 5.0, 1.0], score=[0.1, 0.2, 0.3, 0.4]),
        "b": table([2.0, 4.0, 6.0, 6.0], score=[0.5, 0.6, 0.7, 0.8]),
    }
    choice = choose(
        tables,
        candidates([0, 0, 1, 1], [0, 0, 2, 2]),
        rule=SwitchRule(),
        num_gts=2,
        num_images=1,
        num_levels=3,
    )
    assert choice.teacher.tolist() == [1, 1, 0, 0]
    assert choice.table.cost.tolist() == [2.0, 4.0, 5.0, 1.0]
    torch.testing.assert_close(choice.table.columns["score"], torch.tensor([0.5, 0.6, 0.3, 0.4]))
    assert choice.decisions.tolist() == [1, -1, -1, -1, -1, 0]  # empty groups decide nothing
    assert choice.shares == {"a": 0.5, "b": 0.5}


def test_mean_indicator_leaves_single_costs_out() -> None:
    choice = choose(
        {"a": table([1.0, 3.0, 7.0]), "b": table([1.0, 1.0, 8.0])},
        candidates([0, 0, 1], [0, 0, 0]),
        rule=SwitchRule(),
        num_gts=2,
        num_images=1,
        num_levels=1,
    )
    assert choice.indicators == pytest.approx({"a": 2**0.5 / 2, "b": 0.0})
    assert choice.shares == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("scope", "decisions", "teacher"),
    [
        ("gt_level", [0, 1, 1, -1, -1, 0], [0, 0, 1, 1, 1, 1, 0, 0]),
        ("gt", [1, 1, 0], [1, 1, 1, 1, 1, 1, 0, 0]),
        ("image", [1, 0], [1, 1, 1, 1, 1, 1, 0, 0]),
        ("iteration", [1], [1] * 8),
    ],
)
def test_scopes(scope: str, decisions: list[int], teacher: list[int]) -> None:
    rows = candidates(
        gt=[0, 0, 0, 0, 1, 1, 2, 2], level=[0, 0, 1, 1, 0, 0, 1, 1], image=[0, 0, 0, 0, 0, 0, 1, 1]
    )
    tables = {
        "a": table([1.0, 3.0, 2.0, 2.1, 2.0, 2.1, 2.0, 3.0]),
        "b": table([1.0, 1.1, 1.0, 9.0, 3.0, 4.0, 5.0, 5.0]),
    }
    choice = choose(
        tables, rows, rule=SwitchRule(scope=scope), num_gts=3, num_images=2, num_levels=2
    )
    assert choice.decisions.tolist() == decisions
    assert choice.teacher.tolist() == teacher


def test_fisher_prefers_separated_clusters() -> None:
    rule = SwitchRule(criterion="fisher")
    clusters = [10.0, 10.1, 10.2, 20.0, 20.1, 20.2]
    spread = [0.1, 0.2, 0.4, 1.6, 6.4, 3.2]  # larger sigma/mu, worse separation
    assert one_group(spread, clusters).decisions.tolist() == [0]
    choice = one_group(spread, clusters, rule=rule)
    assert choice.decisions.tolist() == [1]
    assert choice.indicator[1] > choice.indicator[0] > 0


def test_fisher_falls_back_on_small_groups() -> None:
    rule = SwitchRule(criterion="fisher")
    three = one_group([1.0, 2.0, 6.0], [1.0, 1.0, 1.1], rule=rule)
    assert three.decisions.tolist() == [0]  # by std/mean
    assert three.indicator.tolist() == [0.0, 0.0]  # Fisher itself never applied
    groups = candidates([0] * 3 + [1] * 4, [0] * 7)
    costs = table([1.0, 2.0, 6.0, 1.0, 2.0, 6.0, 7.0])
    values = compute_indicators(
        [costs], groups, scope="gt", num_gts=2, num_images=1, num_levels=1, fisher=True
    )
    assert values.fisher is not None
    assert values.fisher[0].item() == 0 and values.fisher[1].item() > 0
    assert one_group([2.0], [1.0], rule=rule).decisions.tolist() == [1]  # by the mean


def ragged(
    lengths: list[int], seed: int, *, owners: bool
) -> tuple[Candidates, list[CostTable], Tensor]:
    """Two networks' costs in groups of these lengths, and (M, N) bool which of them count."""
    generator = torch.Generator().manual_seed(seed)
    gt = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    costs = torch.rand(2, len(gt), generator=generator).square() * 9
    owned = torch.rand(2, len(gt), generator=generator) < 0.6
    if not owners:
        owned[:] = True
    columns = [{"owned": own.float()} if owners else {} for own in owned]
    tables = [CostTable(cost=cost, columns=column) for cost, column in zip(costs, columns)]
    return candidates(gt.tolist(), [0] * len(gt)), tables, owned


def fisher_padded_to_the_longest(
    tables: list[CostTable], counts: Tensor, lengths: list[int]
) -> Tensor:
    """Fisher's ratio with all groups in one fit, (S, M)."""
    bags = torch.zeros(len(lengths), len(tables), max(lengths), dtype=torch.float64)
    mask = torch.zeros_like(bags, dtype=torch.bool)
    for network, of_network in enumerate(tables):
        start = 0
        for group, length in enumerate(lengths):
            rows = slice(start, start + length)
            bags[group, network, :length] = of_network.cost[rows]
            mask[group, network, :length] = counts[network, rows]
            start += length
    fit = fit_mixture(bags.flatten(0, 1), mask.flatten(0, 1))
    ratio = (fit.means[:, 0] - fit.means[:, 1]).square() / fit.variances.sum(-1)
    enough = mask.flatten(0, 1).sum(-1) >= 4
    return torch.where(fit.fitted & enough, ratio, 0.0).view(len(lengths), len(tables))


@pytest.mark.parametrize("owners", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_fisher_of_ragged_groups_is_that_of_one_fit(seed: int, owners: bool) -> None:
    """To the last bit in groups of the longest one's bucket, to rounding elsewhere."""
    lengths = [0, 1, 3, 4, 16, 17, 0, 32, 33, 64, 65, 301, 1, 5, 260, 150, 2, 0]
    lengths = lengths[seed:] + lengths[:seed]
    rows, tables, counts = ragged(lengths, seed, owners=owners)
    values = compute_indicators(
        tables, rows, scope="gt", num_gts=len(lengths), num_images=1, fisher=True
    )
    expected = fisher_padded_to_the_longest(tables, counts, lengths)
    assert values.fisher is not None and values.fisher.shape == expected.shape
    assert torch.equal(values.fisher == 0, expected == 0) and (expected > 0).any()
    torch.testing.assert_close(values.fisher, expected, rtol=1e-9, atol=0)
    widest = torch.tensor(lengths) > 256
    assert torch.equal(values.fisher[widest], expected[widest])
    decided, plain = (switching._decide(v) for v in (values, replace(values, fisher=expected)))
    assert torch.equal(decided[0], plain[0]) and torch.equal(decided[1], plain[1])
    assert set(decided[0].tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("lengths", [[40], [16, 4, 9], [0, 7, 0], [3, 1, 0]])
def test_fisher_of_one_bucket_has_the_bits_of_one_fit(lengths: list[int]) -> None:
    rows, tables, counts = ragged(lengths, 0, owners=False)
    values = compute_indicators(
        tables, rows, scope="gt", num_gts=len(lengths), num_images=1, fisher=True
    )
    assert values.fisher is not None
    assert torch.equal(values.fisher, fisher_padded_to_the_longest(tables, counts, lengths))


@pytest.mark.parametrize(
    ("lengths", "narrow", "expected"),
    [
        ([], True, []),
        ([0, 3, 1], True, []),
        ([0, 3, 1], False, []),
        ([4, 0, 9], True, [([0, 2], 9)]),
        ([16, 17, 40, 3, 300, 5], True, [([0, 5], 16), ([1], 32), ([2], 64), ([4], 300)]),
        ([16, 17, 40, 3, 300, 5], False, [([0, 1, 2, 4, 5], 300)]),
    ],
)
def test_groups_are_fitted_with_those_of_similar_length(
    lengths: list[int], narrow: bool, expected: list[tuple[list[int], int]]
) -> None:
    found = switching._by_width(torch.tensor(lengths, dtype=torch.int64), narrow=narrow)
    assert [(groups.tolist(), width) for groups, width in found] == expected


def test_fixed_teacher() -> None:
    rule = SwitchRule(criterion="fixed", teacher="b")
    choice = one_group([1.0, 2.0], [5.0, 5.0], rule=rule)
    assert choice.table.cost.tolist() == [5.0, 5.0]
    assert choice.teacher.tolist() == [1, 1]
    assert choice.shares == {"a": 0.0, "b": 1.0}
    with pytest.raises(ConfigError, match="'c' is not among the cost tables of \\('a', 'b'\\)"):
        one_group([1.0], [2.0], rule=SwitchRule(criterion="fixed", teacher="c"))


def test_self_assignment_takes_the_own_table() -> None:
    tables = {"a": table([1.0, 2.0]), "b": table([3.0, 3.0])}
    rows = candidates([0, 0], [0, 0])
    rule, sizes = SwitchRule(criterion="self"), dict(num_gts=1, num_images=1)
    assert choose(tables, rows, rule=rule, own="b", **sizes).table is tables["b"]
    with pytest.raises(ConfigError, match="teacher None"):
        choose(tables, rows, rule=rule, **sizes)


def test_unowned_rows_stay_out_of_the_indicator() -> None:
    calm, wild = [1.0, 1.0, 1.0, 9.0], [1.0, 2.0, 3.0, 3.0]
    everything = [1.0] * 4
    assert one_group(calm, wild, a=everything, b=everything).decisions.tolist() == [0]
    choice = one_group(calm, wild, a=[1.0, 1.0, 1.0, 0.0], b=everything)
    assert choice.decisions.tolist() == [1]
    assert choice.table.columns["owned"].tolist() == everything  # copied with the rest


def test_network_that_owns_nothing_cannot_win() -> None:
    nothing = [0.0, 0.0]
    choice = one_group([1.0, 9.0], [5.0, 5.0], a=nothing, b=[1.0, 1.0])
    assert choice.decisions.tolist() == [1]
    neither = one_group([1.0, 9.0], [5.0, 5.0], a=nothing, b=nothing)
    assert neither.decisions.tolist() == [-1] and neither.teacher.tolist() == [0, 0]
    assert neither.shares == {"a": 0.0, "b": 0.0}


def test_unequal_ownership_is_judged_by_the_smaller_count() -> None:
    # a owns one row only, so means decide although b has two.
    choice = one_group([2.0, 9.0], [2.0, 2.2], a=[1.0, 0.0], b=[1.0, 1.0])
    assert choice.decisions.tolist() == [0]  # by std/mean it would be b


@pytest.mark.parametrize("criterion", ["std_mean", "fisher"])
@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_to_decide(scope: str, criterion: str) -> None:
    rule = SwitchRule(scope=scope, criterion=criterion)
    for num_gts in (0, 2):
        choice = choose(
            {"a": table([]), "b": table([])},
            candidates([], []),
            rule=rule,
            num_gts=num_gts,
            num_images=2,
            num_levels=3,
        )
        assert len(choice.table) == 0 and (choice.decisions == -1).all()
        assert choice.shares == {"a": 0.0, "b": 0.0}


def test_levels_are_found_where_not_given() -> None:
    rows = candidates([0, 0, 1], [0, 2, 1])
    choice = choose(
        {"a": table([1.0, 2.0, 3.0]), "b": table([2.0, 1.0, 4.0])},
        rows,
        rule=SwitchRule(),
        num_gts=2,
        num_images=1,
    )
    assert choice.teacher.tolist() == [0, 1, 0]


def test_no_gradient_passes() -> None:
    cost = torch.tensor([1.0, 2.0], requires_grad=True)
    choice = choose(
        {"a": CostTable(cost=cost), "b": table([1.0, 1.0])},
        candidates([0, 0], [0, 0]),
        rule=SwitchRule(),
        num_gts=1,
        num_images=1,
    )
    assert not choice.table.cost.requires_grad


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(criterion="variance"), "criterion 'variance': expected one of"),
        (dict(scope="batch"), "scope 'batch': expected one of"),
        (dict(criterion="fixed"), "teacher None does not fit"),
        (dict(teacher="r50"), "teacher 'r50' does not fit"),
    ],
)
def test_rejects_contradictory_rules(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SwitchRule(**fields)


def test_rejects_tables_that_do_not_fit() -> None:
    rows, rest = candidates([0], [0]), dict(rule=SwitchRule(), num_gts=1, num_images=1)
    with pytest.raises(CandidateMismatchError, match="2 rows for 1 candidates"):
        choose({"a": table([1.0]), "b": table([1.0, 2.0])}, rows, **rest)
    with pytest.raises(CandidateMismatchError, match="columns"):
        choose({"a": table([1.0]), "b": table([1.0], iou=[0.5])}, rows, **rest)
    with pytest.raises(CandidateMismatchError, match="no cost table"):
        choose({}, rows, **rest)


@given(st.integers(0, 10**6), st.permutations(range(3)))
@settings(max_examples=30, deadline=None)
def test_order_of_networks_matters_for_ties_only(seed: int, order: list[int]) -> None:
    random = np.random.default_rng(seed)
    gt = np.sort(random.integers(0, 4, 30))
    rows = candidates(gt.tolist(), [0] * 30)
    costs = random.gamma(2.0, 1.0, (3, 30)).astype(np.float32)
    sizes = dict(rule=SwitchRule(), num_gts=4, num_images=1, num_levels=1)
    straight = choose({str(i): table(costs[i]) for i in range(3)}, rows, **sizes)
    shuffled = choose({str(i): table(costs[i]) for i in order}, rows, **sizes)
    assert torch.equal(straight.table.cost, shuffled.table.cost)
    assert straight.shares == pytest.approx(shuffled.shares)


T = TypeVar("T")


class ThreadRanks:
    """Several ranks as threads of this process, for the two collective calls of a ``Reducer``."""

    def __init__(self, world_size: int) -> None:
        self._barrier = threading.Barrier(world_size, timeout=20)
        self._slots: list[Tensor] = [torch.empty(0)] * world_size

    def run(self, work: Callable[[int, ThreadRanks], T], world_size: int) -> list[T]:
        results: list[T | None] = [None] * world_size

        def target(rank: int) -> None:
            results[rank] = work(rank, self)

        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [result for result in results if result is not None]

    def exchange(self, rank: int, value: Tensor) -> list[Tensor]:
        self._slots[rank] = value
        self._barrier.wait()
        everything = list(self._slots)
        self._barrier.wait()
        return everything


class ThreadReducer:
    def __init__(self, rank: int, ranks: ThreadRanks) -> None:
        self.rank, self.ranks = rank, ranks

    def sum(self, value: Tensor) -> Tensor:
        return torch.stack(self.ranks.exchange(self.rank, value)).sum(0)

    def gather(self, value: Tensor) -> Tensor:
        assert value.ndim == 1
        return torch.cat(self.ranks.exchange(self.rank, value))


@pytest.mark.parametrize("criterion", ["std_mean", "fisher"])
def test_iteration_scope_speaks_for_all_ranks(criterion: str) -> None:
    """Three ranks, one of them without candidates, decide as one rank with all rows."""
    random = np.random.default_rng(0)
    costs = random.gamma(2.0, 1.0, (2, 25)).astype(np.float32)
    parts = [slice(0, 18), slice(18, 18), slice(18, 25)]
    rule = SwitchRule(criterion=criterion, scope="iteration")

    def decide(rows: slice, reducer: ThreadReducer | None) -> Choice:
        count = len(costs[0, rows])
        return choose(
            {"a": table(costs[0, rows]), "b": table(costs[1, rows])},
            candidates([0] * count, [0] * count),
            rule=rule,
            num_gts=min(count, 1),
            num_images=1,
            reducer=reducer,
        )

    whole = decide(slice(None), None)
    ranks = ThreadRanks(3).run(lambda rank, r: decide(parts[rank], ThreadReducer(rank, r)), 3)
    assert len(ranks) == 3
    for rows, choice in zip(parts, ranks):
        torch.testing.assert_close(choice.indicator, whole.indicator)
        assert torch.equal(choice.decisions, whole.decisions)
        assert torch.equal(choice.table.cost, whole.table.cost[rows])


@pytest.mark.parametrize("owners", [False, True])
def test_fisher_of_several_ranks_has_the_bits_of_one(owners: bool) -> None:
    rows, tables, _ = ragged([57], 3, owners=owners)
    parts = [slice(0, 20), slice(20, 20), slice(20, 57)]

    def fisher(part: slice, reducer: ThreadReducer | None) -> Tensor:
        own = [
            CostTable(cost=t.cost[part], columns={k: v[part] for k, v in t.columns.items()})
            for t in tables
        ]
        count = len(own[0])
        values = compute_indicators(
            own,
            candidates([0] * count, [0] * count),
            scope="iteration",
            num_gts=1,
            num_images=1,
            fisher=True,
            reducer=reducer,
        )
        assert values.fisher is not None
        return values.fisher

    whole = fisher(slice(None), None)
    assert (whole > 0).all() and whole[0, 0] != whole[0, 1]
    ranks = ThreadRanks(3).run(lambda rank, r: fisher(parts[rank], ThreadReducer(rank, r)), 3)
    assert len(ranks) == 3 and all(torch.equal(of_rank, whole) for of_rank in ranks)


def test_other_scopes_stay_local() -> None:
    choice = choose(
        {"a": table([1.0, 2.0]), "b": table([1.0, 1.0])},
        candidates([0, 0], [0, 0]),
        rule=SwitchRule(scope="gt"),
        num_gts=1,
        num_images=1,
        reducer=ThreadReducer(0, ThreadRanks(2)),  # a collective call would wait for a rank 1
    )
    assert choice.decisions.tolist() == [0]
