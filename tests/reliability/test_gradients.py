"""Gradients of the log-likelihood against central differences of 100 digits."""

from __future__ import annotations

import decimal
from decimal import Decimal

import numpy as np
import pytest
import torch
from torch import Tensor

from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from deepssm.inference.kalman.method import Kalman
from tests.given import Given

from .cases import Case, case
from .exact import DIGITS, Model, decimals, log_likelihood

# Largest error over largest gradient; the two extreme cases lose half their digits in the data.
CASES = {
    "base": 1e-8,
    "Q 1e-12": 1e-8,
    "R 1e-10, P0 1e10": 1e-4,
    "rank-1 Q": 1e-8,
    "P0 = 0": 1e-8,
    "one exact row": 1e-8,
    "gaps of components": 1e-8,
    "small units": 1e-8,
    "duplicated sensor, R 1e-14": 1e-4,
}
# Of single entries of the extreme cases, whose gradients are differences of larger numbers.
EXTREME = 1e-3
COVARIANCES = ("P0", "Q", "R")
NAMES = ("m0", "P0", "A", "b", "Q", "C", "d", "R")


@pytest.mark.parametrize("name", CASES)
def test_gradient_by_the_scale_of_each_covariance(name: str) -> None:
    """With respect to the logarithms of the scales of `Q`, `R` and `P0`."""
    given = case(name)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    q, r, p0 = theta.exp()
    start, (A, b, Q), (C, d, R) = given.params
    params = LinearParameters(
        start._replace(cov=p0 * start.cov),
        LinearConditional(A, b, q * Q),
        LinearConditional(C, d, r * R),
    )
    ll = Kalman().log_likelihood(Given(params), Series(given.y)).sum()
    (ours,) = torch.autograd.grad(ll, theta)
    model = decimals(given.params)
    slopes = [_slope(model, given.y, field, getattr(model, field)) for field in ("Q", "R", "P0")]
    exact = torch.tensor(slopes, dtype=torch.float64)
    assert float((ours - exact).abs().max() / exact.abs().max()) < CASES[name]


@pytest.mark.parametrize("name", CASES)
def test_gradient_by_every_number(name: str) -> None:
    """Each entry of each matrix and offset, relative to the largest of its matrix.

    Directions are as long as the matrix, so derivatives are in nats; what is smaller than the
    rounding of the log-likelihood itself is zero. (A vague start makes `d` such a parameter.)
    """
    given = _shortened(case(name), 8)
    leaves = [x.clone().requires_grad_() for x in _leaves(given.params)]
    ll = Kalman().log_likelihood(Given(_rebuild(leaves)), Series(given.y)).sum()
    grads = torch.autograd.grad(ll, leaves)
    rounding = np.finfo(float).eps * abs(float(ll.detach()))
    model = decimals(given.params)
    for field, ours in zip(NAMES, grads, strict=True):
        directions = _directions(
            getattr(model, field), field in COVARIANCES, _unit(model, given.y, field)
        )
        exact = [_slope(model, given.y, field, x, 60) for x in directions]
        actual = [float((ours * torch.from_numpy(x.astype(float))).sum()) for x in directions]
        error = np.abs(np.subtract(exact, actual)).max()
        limit = EXTREME if CASES[name] > 1e-8 else CASES[name]
        assert error <= limit * np.abs(exact).max() + rounding, (field, error, exact)


def test_gradient_by_the_data() -> None:
    """The gap has gradient zero whatever its neighbours say."""
    given = _shortened(case("gaps of components"), 8)
    y = given.y.clone().requires_grad_()
    (ours,) = torch.autograd.grad(Kalman().log_likelihood(Given(given.params), Series(y)).sum(), y)
    model, step = decimals(given.params), 2.0**-40
    for index in np.ndindex(*y.shape):
        moved = given.y.clone(), given.y.clone()
        moved[0][index] += step
        moved[1][index] -= step
        change = log_likelihood(model, moved[0]) - log_likelihood(model, moved[1])
        slope = float(change) / float(moved[0][index] - moved[1][index])
        expected = 0.0 if given.y[index].isnan() else slope
        assert abs(float(ours[index]) - expected) <= 1e-9 * (1 + abs(expected)), index


def _unit(model: Model, y: Tensor, field: str) -> Decimal:
    """A size to move by: the largest entry of the matrix, or of the data for a zero offset."""
    largest = abs(getattr(model, field)).max()
    return largest or (Decimal(float(y.nan_to_num().abs().max())) if field in "bd" else Decimal(1))


def _directions(x: np.ndarray, symmetric: bool, unit: Decimal) -> list[np.ndarray]:
    """Moves of one entry, or of an entry of a covariance with its mirror image."""
    out = []
    for index in np.ndindex(x.shape):
        if symmetric and index[-1] > index[-2]:
            continue
        direction = np.full(x.shape, Decimal(0))
        direction[index] = unit
        if symmetric:
            direction[(*index[:-2], index[-1], index[-2])] = unit
        out.append(direction)
    return out


def _slope(
    model: Model, y: Tensor, field: str, direction: np.ndarray, digits: int = DIGITS
) -> float:
    """Central difference; a quarter of the digits as step leaves half of them in the slope."""
    with decimal.localcontext(decimal.Context(prec=digits)):
        step = Decimal(10) ** (-digits // 4)
        value = getattr(model, field)
        up, down = (
            log_likelihood(model._replace(**{field: value + move * direction}), y, digits)
            for move in (step, -step)
        )
        return float((up - down) / (2 * step))


def _shortened(given: Case, time: int) -> Case:
    return Case(given.params, given.y[:time])


def _leaves(params: LinearParameters) -> list[Tensor]:
    return [params.initial.mean, params.initial.cov, *params.transition, *params.emission]


def _rebuild(leaves: list[Tensor]) -> LinearParameters:
    mean, cov, *rest = leaves
    return LinearParameters(
        GaussianInitial(mean, cov), LinearConditional(*rest[:3]), LinearConditional(*rest[3:])
    )
