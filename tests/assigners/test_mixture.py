import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assigners import mixture
from assigners.mixture import MAX_ITERATIONS, REG_COVAR, TOLERANCE, fit_mixture


def pad(*bags: list[float] | np.ndarray, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as (G, K) costs and mask; the padding is not a number."""
    width = max(len(bag) for bag in bags) if width is None else width
    cost = torch.full((len(bags), width), math.nan, dtype=torch.float64)
    mask = torch.zeros(cost.shape, dtype=torch.bool)
    for row, bag in enumerate(bags):
        cost[row, : len(bag)] = torch.as_tensor(np.asarray(bag))
        mask[row, : len(bag)] = True
    return cost, mask


def random_bag(seed: int, size: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    low = random.normal(1.0, 0.2, size - size // 2)
    return np.concatenate([low, random.normal(3.0, 0.5, size // 2)])


def test_separated_clusters() -> None:
    fit = fit_mixture(*pad([1.0, 1.1, 0.9, 5.0, 5.2]))
    torch.testing.assert_close(
        fit.means[0], torch.tensor([1.0, 5.1], dtype=torch.float64), atol=1e-2, rtol=0
    )
    torch.testing.assert_close(
        fit.weights[0], torch.tensor([0.6, 0.4], dtype=torch.float64), atol=1e-2, rtol=0
    )
    assert fit.fitted.all() and fit.converged.all()


def test_constants_are_scikit_learns() -> None:
    """mmdet leaves them at their defaults."""
    theirs = pytest.importorskip("sklearn.mixture").GaussianMixture()
    ours = (REG_COVAR, TOLERANCE, MAX_ITERATIONS)
    assert ours == (theirs.reg_covar, theirs.tol, theirs.max_iter)


@given(st.integers(0, 10**6), st.integers(4, 45))
@settings(max_examples=40, deadline=None)
def test_equals_scikit_learn(seed: int, size: int) -> None:
    """In float64 with centred variance scikit-learn runs the same iteration."""
    sklearn = pytest.importorskip("sklearn.mixture")
    bag = random_bag(seed, size)
    reference = sklearn.GaussianMixture(
        2,
        weights_init=[0.5, 0.5],
        means_init=[[bag.min()], [bag.max()]],
        precisions_init=np.ones((2, 1, 1)),
        covariance_type="full",
    ).fit(bag[:, None])
    fit = fit_mixture(*pad(bag))
    assert int(fit.n_iter) == reference.n_iter_
    np.testing.assert_allclose(fit.means[0], reference.means_[:, 0], rtol=1e-9)
    np.testing.assert_allclose(fit.variances[0], reference.covariances_[:, 0, 0], rtol=1e-7)
    np.testing.assert_allclose(fit.weights[0], reference.weights_, rtol=1e-9)
    per_component, density = fit.log_density(torch.from_numpy(bag)[None])
    np.testing.assert_allclose(density[0], reference.score_samples(bag[:, None]), rtol=1e-7)
    second = (per_component[0, 1] > per_component[0, 0]).numpy()
    np.testing.assert_array_equal(second, reference.predict(bag[:, None]) == 1)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(2, 20)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_rows_do_not_see_each_other(bags: list[tuple[int, int]]) -> None:
    """Neither the other rows, nor the padding, nor the frequency of the checks matters."""
    samples = [random_bag(seed, size) for seed, size in bags]
    together = fit_mixture(*pad(*samples, width=30))
    often = fit_mixture(*pad(*samples, width=30), check_every=1)
    for row, sample in enumerate(samples):
        alone = fit_mixture(*pad(sample, width=30), check_every=3)
        for name in ("means", "variances", "weights", "n_iter", "converged"):
            value = getattr(together, name)[row]
            assert torch.equal(value, getattr(often, name)[row])
            torch.testing.assert_close(value, getattr(alone, name)[0], rtol=1e-12, atol=1e-15)


def test_the_form_for_a_gpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's arrays and a look every fourth iteration, here on a CPU."""
    bags = pad(*[random_bag(seed, 2 + 3 * seed) for seed in range(12)], [1.0], [2.0, math.nan])
    expected = fit_mixture(*bags)
    assert len(expected.n_iter.unique()) > 4  # rows leave at several looks
    monkeypatch.setattr(mixture, "_in_numpy", lambda x: False)
    found = fit_mixture(*bags)
    for name in ("n_iter", "converged", "fitted"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    for name in ("means", "variances", "weights"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-12
        )


def test_rows_stop_on_their_own() -> None:
    fast, slow = [1.0, 1.0, 1.0, 9.0, 9.0], random_bag(3, 20)
    both = fit_mixture(*pad(fast, slow))
    assert both.n_iter[0] < both.n_iter[1]
    assert int(both.n_iter[0]) == int(fit_mixture(*pad(fast)).n_iter)


def test_iteration_limit() -> None:
    fit = fit_mixture(*pad(random_bag(3, 20)), max_iter=2)
    assert int(fit.n_iter) == 2 and not fit.converged.any() and fit.fitted.all()


def test_equal_samples_give_equal_components() -> None:
    fit = fit_mixture(*pad([2.0] * 5))
    assert fit.means[0, 0] == fit.means[0, 1] == pytest.approx(2.0)
    torch.testing.assert_close(fit.variances[0], torch.full((2,), REG_COVAR, dtype=torch.float64))
    per_component, _ = fit.log_density(torch.full((1, 5), 2.0))
    assert torch.equal(per_component[0, 0], per_component[0, 1])


def test_rows_that_cannot_be_fitted() -> None:
    fit = fit_mixture(*pad([], [1.0], [1.0, math.inf], [1.0, math.nan, 2.0], [1.0, 2.0]))
    assert fit.fitted.tolist() == [False, False, False, False, True]
    assert fit.converged.tolist() == [False, False, False, False, True]
    assert fit.n_iter[:4].tolist() == [0, 0, 0, 0]
    assert torch.isfinite(fit.means).all() and torch.isfinite(fit.variances).all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty_input(shape: tuple[int, int]) -> None:
    fit = fit_mixture(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))
    assert fit.means.shape == (shape[0], 2) and not fit.fitted.any()


def test_variance_stays_positive_at_a_large_offset() -> None:
    """E[x^2] - E[x]^2 in float32 would go negative here."""
    fit = fit_mixture(*pad([1000.0, 1000.0001, 1000.0002, 1003.0]))
    assert (fit.variances >= REG_COVAR).all() and fit.fitted.all()
