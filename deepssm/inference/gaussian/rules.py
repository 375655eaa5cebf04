"""Rules that push a Gaussian through a conditional distribution, in square-root form.

A rule maps `z = m + L e`, `e ~ N(0, I)`, and `p(x | z)` to the best linear description it has,
`x = mean + slope e + spread n` with `n ~ N(0, I)` independent of `e`. Nothing is ever subtracted
from a covariance: what linearity leaves unexplained is a factor of its own inside `spread`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    OneHotCategorical,
)
from torch.nn import functional

from ...core.gaussian import beside, mvn, outer, psd_factor
from ..simulation.angles import Wrap, identity
from ..simulation.conditionals import HasCovariance
from . import compiled_steps as compiled
from .linearized import Conditional, Linearized, Moments
from .unwrapping import images, spread_out


def taylor(conditional: Conditional, mean: Tensor, factor: Tensor, wrap: Wrap) -> Linearized:
    """Linearise by the Jacobian at the mean, in reverse mode: one pass over copies of it.

    Copy `i` gives row `i`, so there are as many copies as there are outputs, or states if those
    are more. Where nobody can ask for a gradient of the result, no graph is kept.

    Source: Särkkä & Svensson (2023), Bayesian Filtering and Smoothing, section 7.2.
    """
    wanted = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        x, pushed = _at_copies(conditional, mean, mean.shape[-1], wanted)
        if pushed.mean.shape[-1] > len(x):
            x, pushed = _at_copies(conditional, mean, pushed.mean.shape[-1], wanted)
        value, noise = pushed.mean, noise_factor(pushed, None)
        wanted = wanted and (mean.requires_grad or any(_reads_more(v, x) for v in (value, noise)))
        rows = _rows(value, x, wanted)
    if not wanted:
        value, noise = value.detach(), noise.detach()
    return Linearized(value[0], _slope(rows, factor), noise)


def weighted(points: Tensor, weights: Tensor) -> Moments:
    """Return the rule of `sum_i w_i f(m + L x_i)` with positive weights.

    Args:
        points: `x_i`, `(count, state)`, matching mean 0 and covariance 1.
        weights: `(count,)`, positive, summing to 1.

    Source: Särkkä & Svensson (2023), section 9.1 (statistical linear regression by points).
    """

    def rule(conditional: Conditional, mean: Tensor, factor: Tensor, wrap: Wrap) -> Linearized:
        x, w = points.to(mean), weights.to(mean)
        if wrap is identity:
            pushed = conditional(spread_out(mean, factor, x))
            reference = pushed.mean[0]
            steps, shares = pushed.mean - reference, w
        else:
            pushed, reference, steps, rest = images(conditional, mean, factor, x, wrap)
            shares = functional.pad(w, (1, rest))
        shift = _average(steps, w)
        slope = torch.einsum("i,i...p,in->...pn", w, steps, x)
        left = steps - shift - torch.einsum("...pn,in->i...p", slope, x)
        spread = (_column(w.sqrt(), left) * left).movedim(0, -1)
        return Linearized(reference + shift, slope, beside(spread, noise_factor(pushed, shares)))

    return rule


def unscented(alpha: float, beta: float, kappa: float) -> Moments:
    """Return the scaled unscented rule, with weights only on differences from the centre.

    With `c = alpha sqrt(n + kappa)`, odd and even differences `a_i`, `s_i` of the pair
    `m +- c L_i`, and `d = sum s_i / c^2`, the textbook moments are `mean = f(m) + d` and
    `cov = sum a_i a_i' / c^2 + sum s_i s_i' / c^2 + (beta - alpha^2) d d'`. The first sum is
    `slope slope'`; the rest is a factor without a downdate as long as
    `alpha^2 kappa + beta n >= 0`. No weight of order `1 / alpha^2` meets a large number.

    Source: Wan & van der Merwe (2000); the factor form is derived here.
    """

    def rule(conditional: Conditional, mean: Tensor, factor: Tensor, wrap: Wrap) -> Linearized:
        n = mean.shape[-1]
        square = alpha**2 * (n + kappa)
        eye = math.sqrt(square) * torch.eye(n, dtype=mean.dtype, device=mean.device)
        points = torch.cat((eye, -eye))
        pushed, centre, steps, rest = images(conditional, mean, factor, points, wrap)
        odd, even = (steps[:n] - steps[n:]) / 2, (steps[:n] + steps[n:]) / 2
        shift = even.sum(0) / square
        weights = mean.new_full((2 * n + 1 + rest,), 0.5 / square)
        weights[0], weights[2 * n + 1 :] = 1 - n / square, 0.0
        slope, noise = odd.movedim(0, -1) / math.sqrt(square), noise_factor(pushed, weights)
        excess = beta - alpha**2
        if 1 + excess * n / square > -1e-9:
            spread = beside(_even_spread(even, shift, square, excess), noise)
        else:
            spread = _downdated(even, shift, square, excess, slope, noise)
        return Linearized(centre + shift, slope, spread)

    return rule


def cubature_points(state_dim: int) -> tuple[Tensor, Tensor]:
    """Return the `2 n` points of the spherical-radial cubature rule and their weights."""
    eye = math.sqrt(state_dim) * torch.eye(state_dim, dtype=torch.float64)
    weight = 0.5 / state_dim
    return torch.cat((eye, -eye)), torch.full((2 * state_dim,), weight, dtype=torch.float64)


def simplex_points(state_dim: int) -> tuple[Tensor, Tensor]:
    """Return the `n + 1` corners of a regular simplex and their weights.

    Source: Moireau & Chapelle (2011), ESAIM: COCV 17, section 2.
    """
    n = state_dim
    points = torch.zeros(n + 1, n, dtype=torch.float64)
    for i in range(1, n + 1):
        scale = math.sqrt((n + 1) / (i * (i + 1)))
        turn = -1 if i == 1 else 1  # as published; any orientation has the same moments
        points[:i, i - 1] = turn * scale
        points[i, i - 1] = -turn * i * scale
    return points, torch.full((n + 1,), 1 / (n + 1), dtype=torch.float64)


def hermite_points(order: int, state_dim: int) -> tuple[Tensor, Tensor]:
    """Return the `order ** n` points of the Gauss-Hermite product rule and their weights.

    Raises:
        ValueError: the grid has more than 100 000 points.
    """
    if order**state_dim > 100_000:
        raise ValueError(
            f"`order` {order} needs {order}**{state_dim} points for a state of size {state_dim}. "
            "Use `Cubature()` or `Unscented()`, whose cost is linear in the state."
        )
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    grid = np.stack(np.meshgrid(*[nodes] * state_dim, indexing="ij"), -1).reshape(-1, state_dim)
    mass = np.stack(np.meshgrid(*[weights] * state_dim, indexing="ij"), -1).prod(-1).reshape(-1)
    return torch.from_numpy(grid), torch.from_numpy(mass / mass.sum())


def _at_copies(
    conditional: Conditional, mean: Tensor, count: int, wanted: bool
) -> tuple[Tensor, Distribution]:
    x = mean.expand(count, *mean.shape).clone()
    if not (wanted and mean.requires_grad):
        x = x.detach().requires_grad_()
    return x, conditional(x)


def _rows(value: Tensor, x: Tensor, wanted: bool) -> Tensor:
    """Return the Jacobian of `value` at the copies `x`, `(*batch, out, state)`."""
    out = value.shape[-1]
    if not value.requires_grad:
        return x.new_zeros(*x.shape[1:-1], out, x.shape[-1])
    seed = torch.eye(len(x), out, dtype=value.dtype, device=value.device)
    seed = seed.reshape(len(x), *[1] * (value.ndim - 2), out).expand_as(value)
    options = {"create_graph": wanted, "materialize_grads": True}
    (gradient,) = torch.autograd.grad(value, x, seed, **options)
    return gradient[:out].movedim(0, -2)


def _slope(rows: Tensor, factor: Tensor) -> Tensor:
    same = rows.shape[:-2] == factor.shape[:-2]
    if same and compiled.compilable(rows, rows, factor):
        return compiled.product(rows, factor)
    return rows @ factor


def _reads_more(value: Tensor, x: Tensor) -> bool:
    """Tell whether a gradient of `value` can reach anything but `x`."""
    if value.grad_fn is None:
        return value.requires_grad and value is not x
    seen, open_nodes = set(), [value.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not x:
            return True
        open_nodes += [following for following, _ in node.next_functions]
    return False


def _even_spread(even: Tensor, shift: Tensor, square: float, excess: float) -> Tensor:
    """Return a factor of `sum s_i s_i' / c^2 + excess d d'`."""
    ratio = even.shape[0] / square
    part = (1 - math.sqrt(max(1 + excess * ratio, 0.0))) / ratio
    return (even - part * shift).movedim(0, -1) / math.sqrt(square)


def _downdated(
    even: Tensor, shift: Tensor, square: float, excess: float, slope: Tensor, noise: Tensor
) -> Tensor:
    """Return a factor of the same sum plus the noise where only a difference gives it."""
    columns = even.movedim(0, -1)
    cov = outer(columns) / square + excess * outer(shift[..., None])
    total = outer(slope) + outer(noise)
    round_off = 1e3 * torch.finfo(cov.dtype).eps * total.detach().abs().amax((-2, -1), True)
    real = cov.detach().abs().amax((-2, -1), True) > round_off
    return psd_factor(torch.where(real, cov, 0.0) + outer(noise), "unscented covariance")


def inside(rule: Moments, noise: Tensor) -> Moments:
    """Return the rule for noise inside the function: `e` and the noise are pushed together.

    Args:
        rule: A rule for `state + noise` dimensions.
        noise: Factor of the noise, `(noise, noise)`.
    """

    def augmented(
        conditional: Conditional, mean: Tensor, factor: Tensor, wrap: Wrap
    ) -> Linearized:
        n, q = mean.shape[-1], noise.shape[-1]
        joint = factor.new_zeros(*factor.shape[:-2], n + q, n + q)
        joint[..., :n, :n], joint[..., n:, n:] = factor, noise

        def pushed(z: Tensor) -> Distribution:
            value = conditional(z[..., :n]).function(z[..., n:])  # type: ignore[attr-defined]
            return mvn(value, value.new_zeros(value.shape[-1], value.shape[-1]))

        step = rule(pushed, functional.pad(mean, (0, q)), joint, wrap)
        spread = torch.cat((step.slope[..., n:], step.spread), -1)
        return Linearized(step.mean, step.slope[..., :n], spread)

    return augmented


def noise_factor(distribution: Distribution, weights: Tensor | None) -> Tensor:
    """Return a factor of the mean of `Cov(x | z)` over the points, or of the first point's."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if isinstance(distribution, MultivariateNormal):
        factor = distribution.scale_tril
        if weights is None or factor.stride(0) == 0:
            return factor[0]
        return psd_factor(_average(outer(factor), weights), "mean covariance of the noise")
    if isinstance(distribution, OneHotCategorical):
        return _one_hot_noise(distribution.probs, weights)
    if isinstance(distribution, Categorical):
        raise ValueError(
            "`Categorical` observations have no mean and variance, which Gaussian filters need: "
            "let the emission return a `OneHotCategorical`, or filter with `Particle()`."
        )
    if isinstance(distribution, HasCovariance):
        cov = distribution.covariance_matrix
        average = cov[0] if weights is None else _average(cov, weights)
        return psd_factor(average, "mean covariance of the noise")
    variance = distribution.variance
    if weights is None or variance.stride(0) == 0:
        return torch.diag_embed(_safe_sqrt(variance[0]))
    return torch.diag_embed(_safe_sqrt(_average(variance, weights)))


def _one_hot_noise(probs: Tensor, weights: Tensor | None) -> Tensor:
    """Factor `diag(p) - p p'` as `diag(s) - p s'` with `s = sqrt(p)`, without a difference."""
    root = probs.sqrt()
    factors = torch.diag_embed(root) - probs[..., :, None] * root[..., None, :]
    if weights is None:
        return factors[0]
    if bool((weights < 0).any()):
        return psd_factor(_average(outer(factors), weights), "mean covariance of the noise")
    return (_column(weights.sqrt(), factors) * factors).movedim(0, -2).flatten(-2)


def _average(values: Tensor, weights: Tensor) -> Tensor:
    # About the first value, as weights may be huge and of both signs; they sum to one.
    return values[0] + (_column(weights, values) * (values - values[0])).sum(0)


def _column(weights: Tensor, values: Tensor) -> Tensor:
    return weights.reshape(-1, *[1] * (values.ndim - 1))


def _safe_sqrt(variance: Tensor) -> Tensor:
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)
