"""Two-component Gaussian mixtures in one dimension, fitted to many bags of costs at once.

PAA separates the candidates of a GT by such a fit. Bags differ in size, so they are rows of a
padded matrix; every row runs its own expectation maximisation and stops on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

REG_COVAR = 1e-6
"""Added to each variance in each M-step."""
TOLERANCE = 1e-3
"""A row stops when its mean log-likelihood changes by less than this."""
MAX_ITERATIONS = 100
_EMPTY = 10 * torch.finfo(torch.float64).eps  # keeps the weight of an empty component positive
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_Parameters = tuple[Any, ...]  # means, variances, weights


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


def _em_step(
    xp: Any, x: Any, squares: Any, mask: Any, count: Any, parameters: _Parameters
) -> tuple[_Parameters, Any, Any]:
    """One E-step and one M-step of every row.

    Args:
        xp: ``torch`` or ``numpy``, whichever the arrays belong to.
        x: (G, 1, K) float64 samples, 0 where masked.
        squares: (G, 2, K) squared distances to the means.
        mask: (G, 1, K) float64, 1 for a sample.
        count: (G,) float64 samples per row.
        parameters: (G, 2) means, variances and weights.

    Returns:
        The new parameters, the distances to their means, and (G,) the mean log-likelihood *before*
        the M-step, but for a constant.
    """
    _, variances, weights = parameters
    constant = 0.5 * xp.log(weights * weights / variances)
    density = constant[..., None] - (0.5 / variances)[..., None] * squares  # (G, 2, K)
    # Overflows to infinity where a component has no share: 1 / (1 + inf) = 0.
    odds = xp.exp(xp.flip(density, (1,)) - density)
    share = 1 / (1 + odds)
    larger = xp.maximum(share[:, 0], share[:, 1])  # at least 1/2, so its logarithm is exact
    total = xp.maximum(density[:, 0], density[:, 1]) - xp.log(larger)
    resp = mask * share
    size = resp.sum(-1) + _EMPTY  # (G, 2)
    means = (resp * x).sum(-1) / size
    centred = x - means[..., None]
    squares = centred * centred
    variances = (resp * squares).sum(-1) / size + REG_COVAR
    updated = (means, variances, size / size.sum(-1)[:, None])
    return updated, squares, (total * mask[:, 0]).sum(-1) / count


def fit_mixture(
    cost: Tensor, mask: Tensor, *, max_iter: int = MAX_ITERATIONS, check_every: int | None = None
) -> Mixture:
    """Fit one mixture per row by expectation maximisation.

    Starts from means (minimum, maximum), weights (1/2, 1/2) and unit variances. One iteration is an
    E-step, an M-step and the comparison of the mean log-likelihood of that E-step with the previous
    one; a row whose change falls below ``TOLERANCE`` keeps the parameters of its last M-step.

    Args:
        cost: (G, K) samples of any float type.
        mask: (G, K) bool, True for a sample, False for padding.
        max_iter: limit of iterations per row.
        check_every: iterations between two looks at which rows have stopped: by default every one
            on a CPU, every fourth elsewhere, where a look is one device-to-host copy. The result
            does not depend on it.

    Returns:
        The fits. Rows with fewer than two samples or with a non-finite one are not ``fitted``.

    Source:
        PAA, sec. 3.2, as run through scikit-learn by the released code. Reference code differs: its
        float32 variance is E[x^2] - E[x]^2; ours is float64 and centred, which cannot go negative.
    """
    count = mask.sum(-1)
    x = torch.where(mask, cost.detach().double(), 0.0)
    usable = (count >= 2) & x.isfinite().all(-1)
    live = mask & usable[:, None]
    x = torch.where(live, x, 0.0)
    parameters = _initial_parameters(x, live, usable)
    means, variances, weights, n_iter, converged = _maximise(
        x, live.double(), count.clamp(min=1).double(), parameters, usable, max_iter, check_every
    )
    finite = means.isfinite() & variances.isfinite() & weights.isfinite()
    return Mixture(
        means=means,
        variances=variances,
        weights=weights,
        n_iter=n_iter,
        converged=usable & converged,
        fitted=usable & finite.all(-1),
    )


def _maximise(
    x: Tensor,
    mask: Tensor,
    count: Tensor,
    start: _Parameters,
    usable: Tensor,
    max_iter: int,
    check_every: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Iterate every row until it stops; rows that have stopped leave the arrays at each look.

    On a CPU the arrays are numpy's, whose calls cost a third of torch's at these sizes.

    Returns:
        (G, 2) means, variances and weights, (G,) int64 iterations, (G,) bool converged.
    """
    on_host = _in_numpy(x)
    xp: Any = np if on_host else torch
    check_every = check_every or (1 if on_host else 4)

    def native(tensor: Tensor) -> Any:
        return tensor.numpy() if on_host else tensor

    results = [tensor.clone() for tensor in start]
    n_iter, converged = torch.zeros_like(usable, dtype=torch.int64), torch.zeros_like(usable)
    outputs = [native(tensor) for tensor in (*results, n_iter, converged)]
    rows = native(usable.nonzero().flatten())
    x, mask, count = (native(tensor)[rows] for tensor in (x[:, None], mask[:, None], count))
    parameters: _Parameters = tuple(native(tensor)[rows] for tensor in start)
    squares = (x - parameters[0][..., None]) ** 2
    previous = count * -math.inf
    steps = native(torch.zeros(len(rows), dtype=torch.int64, device=usable.device))
    active = steps == 0
    with np.errstate(over="ignore"):
        for iteration in range(max_iter):
            if iteration > 0 and iteration % check_every == 0:
                kept = xp.where(active)[0]  # the one synchronisation of a look
                if len(kept) < len(rows):
                    _store(outputs, rows, parameters, steps, active)
                    rows, x, mask, count = rows[kept], x[kept], mask[kept], count[kept]
                    squares, previous, steps = squares[kept], previous[kept], steps[kept]
                    parameters, active = tuple(array[kept] for array in parameters), active[kept]
            if len(rows) == 0:
                break
            updated, squares, likelihood = _em_step(xp, x, squares, mask, count, parameters)
            if check_every > 1:
                updated = tuple(
                    xp.where(active[:, None], new, old) for new, old in zip(updated, parameters)
                )
            parameters = updated
            steps = steps + active
            active = active & (abs(likelihood - previous) >= TOLERANCE)
            previous = likelihood
    _store(outputs, rows, parameters, steps, active)
    means, variances, weights = results
    return means, variances, weights, n_iter, converged


def _in_numpy(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _store(outputs: list[Any], rows: Any, parameters: _Parameters, steps: Any, active: Any) -> None:
    """Write the state of the arrays' rows to the rows that they were taken from."""
    for output, values in zip(outputs, (*parameters, steps, ~active)):
        output[rows] = values


def _initial_parameters(x: Tensor, live: Tensor, usable: Tensor) -> _Parameters:
    """(G, 2) means at the extremes, unit variances, equal weights."""
    if x.shape[1] == 0:
        extremes = x.new_zeros(x.shape[0], 2)
    else:
        low = torch.where(live, x, math.inf).amin(-1)
        high = torch.where(live, x, -math.inf).amax(-1)
        extremes = torch.where(usable[:, None], torch.stack([low, high], -1), 0.0)  # (G, 2)
    return extremes, torch.ones_like(extremes), torch.full_like(extremes, 0.5)
