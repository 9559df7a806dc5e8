"""Two-component Gaussian mixtures in one dimension, fitted to many bags of costs at once.

PAA separates the candidates of a GT by such a fit. Bags differ in size, so they are rows of a
padded matrix; every row runs its own expectation maximisation and stops on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

REG_COVAR = 1e-6
"""Added to each variance in each M-step."""
TOLERANCE = 1e-3
"""A row stops when its mean log-likelihood changes by less than this."""
MAX_ITERATIONS = 100
_EMPTY = 10 * torch.finfo(torch.float64).eps  # keeps the weight of an empty component positive
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Fitted mixtures, one per row. Component 0 is the one that started at the row's minimum."""

    means: Tensor
    """(G, 2) float64."""
    variances: Tensor
    """(G, 2) float64, regularisation included."""
    weights: Tensor
    """(G, 2) float64, summing to 1."""
    n_iter: Tensor
    """(G,) int64 M-steps done; 0 where nothing was fitted."""
    converged: Tensor
    """(G,) bool: stopped by the tolerance rather than by the iteration limit."""
    fitted: Tensor
    """(G,) bool: at least two finite samples, and finite parameters came out."""

    def log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted log-densities of the samples.

        Args:
            x: (G, K) samples, row g belonging to mixture g.

        Returns:
            (G, 2, K) log(w_k N(x | k)) per component and (G, K) log-density of the mixture.
        """
        per_component = _weighted_log_density(
            x.double()[:, None, :], self.means, self.variances, self.weights
        )
        return per_component, torch.logaddexp(per_component[:, 0], per_component[:, 1])


def _weighted_log_density(x: Tensor, means: Tensor, variances: Tensor, weights: Tensor) -> Tensor:
    """(G, 1, K) samples and (G, 2) parameters -> (G, 2, K)."""
    scaled = (x - means[..., None]) * variances.rsqrt()[..., None]
    constant = weights.log() - 0.5 * variances.log() - _HALF_LOG_2PI
    return torch.addcmul(constant[..., None], scaled, scaled, value=-0.5)


def _em_step(x: Tensor, mask: Tensor, count: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """One E-step and one M-step of every row.

    Args:
        x: (G, 1, K) float64 samples, 0 where masked.
        mask: (G, 1, K) float64, 1 for a sample.
        count: (G, 1) float64 samples per row.
        parameters: (3, G, 2) means, variances, weights.

    Returns:
        The new parameters, and (G, 1) the mean log-likelihood *before* the M-step.
    """
    per_component = _weighted_log_density(x, *parameters.unbind())
    total = torch.logaddexp(per_component[:, :1], per_component[:, 1:])  # (G, 1, K)
    resp = (per_component - total).exp_().mul_(mask)
    size = resp.sum(-1) + _EMPTY  # (G, 2)
    means = (resp * x).sum(-1) / size
    centred = x - means[..., None]
    variances = (resp * centred.square_()).sum(-1) / size + REG_COVAR
    weights = size / size.sum(-1, keepdim=True)
    return torch.stack([means, variances, weights]), (total * mask).sum(-1) / count


def fit_mixture(
    cost: Tensor, mask: Tensor, *, max_iter: int = MAX_ITERATIONS, check_every: int = 8
) -> Mixture:
    """Fit one mixture per row by expectation maximisation.

    Starts from means (minimum, maximum), weights (1/2, 1/2) and unit variances. One iteration is an
    E-step, an M-step and the comparison of the mean log-likelihood of that E-step with the previous
    one; a row whose change falls below ``TOLERANCE`` keeps the parameters of its last M-step.

    Args:
        cost: (G, K) samples of any float type.
        mask: (G, K) bool, True for a sample, False for padding.
        max_iter: limit of iterations per row.
        check_every: iterations between two looks at whether all rows have stopped. Each look is one
            scalar device-to-host copy; the result does not depend on it.

    Returns:
        The fits. Rows with fewer than two samples or with a non-finite one are not ``fitted``.

    Source:
        PAA, sec. 3.2, as run through scikit-learn by the released code. Reference code differs: its
        float32 variance is E[x^2] - E[x]^2; ours is float64 and centred, which cannot go negative.
    """
    cost = cost.detach().double()
    count = mask.sum(-1)
    usable = (count >= 2) & torch.where(mask, cost, 0.0).isfinite().all(-1)
    live = mask & usable[:, None]
    x = torch.where(live, cost, 0.0)
    parameters = _initial_parameters(x, live, usable)
    previous = x.new_full((x.shape[0], 1), -math.inf)
    n_iter = torch.zeros_like(count)
    active = usable.clone()
    weight, count = live.double()[:, None], count.clamp(min=1).double()[:, None]
    for iteration in range(max_iter if x.numel() else 0):
        # Looking costs a synchronisation, so only every few iterations; stopped rows are frozen.
        if iteration % check_every == 0 and not bool(active.any()):
            break
        updated, likelihood = _em_step(x[:, None], weight, count, parameters)
        parameters = torch.where(active[:, None], updated, parameters)
        n_iter += active
        active = active & ((likelihood - previous).abs() >= TOLERANCE).squeeze(-1)
        previous = likelihood
    means, variances, weights = parameters.unbind()
    fitted = usable & parameters.isfinite().all(-1).all(0)
    return Mixture(
        means=means,
        variances=variances,
        weights=weights,
        n_iter=n_iter,
        converged=usable & ~active,
        fitted=fitted,
    )


def _initial_parameters(x: Tensor, live: Tensor, usable: Tensor) -> Tensor:
    """(3, G, 2) means at the extremes, unit variances, equal weights."""
    if x.shape[1] == 0:
        extremes = x.new_zeros(x.shape[0], 2)
    else:
        low = torch.where(live, x, math.inf).amin(-1)
        high = torch.where(live, x, -math.inf).amax(-1)
        extremes = torch.where(usable[:, None], torch.stack([low, high], -1), 0.0)  # (G, 2)
    return torch.stack(
        [extremes, torch.ones_like(extremes), torch.full_like(extremes, 0.5)]
    )  # (3, G, 2)
