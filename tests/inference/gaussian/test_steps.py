"""The compiled steps against the ones that torch differentiates, and Jacobians of any shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from deepssm.core.model import Series
from deepssm.inference.gaussian import steps as steps
from deepssm.inference.gaussian.linearized import Linearized
from deepssm.inference.gaussian.methods import Extended
from deepssm.inference.gaussian.rules import taylor
from deepssm.inference.simulation.angles import identity
from tests.nonlinear_models import observations, pendulum

SIZES = [(2, 1, 1), (3, 2, 2), (4, 3, 6), (3, 4, 2), (1, 1, 0)]


def _random(n: int, rows: int, k: int, seed: int) -> Linearized:
    g = torch.Generator().manual_seed(seed)
    shapes = (5, rows), (5, rows, n), (rows, k)
    mean, slope, spread = (
        torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes
    )
    return Linearized(mean, slope, spread)


def _both(step: Linearized) -> tuple[Linearized, Linearized]:
    """The same numbers twice; the second asks for a gradient, which only torch's route has."""
    return step, step._replace(slope=step.slope.clone().requires_grad_())


def _same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def _square(x: Tensor) -> Tensor:
    return (x @ x.mT).detach()


@pytest.mark.parametrize(("n", "p", "k"), SIZES)
def test_conditioning_is_the_same_compiled_and_in_torch(n: int, p: int, k: int) -> None:
    step, residual = _random(n, p, k, seed=n + p), _random(n, p, k, seed=9).mean
    observed = _random(n, p, k, seed=5).mean < 0.5
    assert observed.any()
    assert not observed.all()
    compiled, torch_route = (steps.condition(s, residual, observed) for s in _both(step))
    assert torch_route.shift.requires_grad
    _same(compiled.shift, torch_route.shift.detach())
    _same(_square(compiled.gain), _square(torch_route.gain))
    _same(compiled.log_likelihood, torch_route.log_likelihood.detach())
    assert torch.equal(compiled.ill_conditioned, torch_route.ill_conditioned)


@pytest.mark.parametrize(("n", "_", "k"), SIZES)
@pytest.mark.parametrize("joint", [False, True])
def test_prediction_is_the_same_compiled_and_in_torch(n: int, _: int, k: int, joint: bool) -> None:
    compiled, torch_route = (steps.predict(s, joint=joint) for s in _both(_random(n, n, k, n)))
    _same(_square(compiled.factor), _square(torch_route.factor))
    if joint:
        _same(compiled.gain, torch_route.gain.detach())
        _same(_square(compiled.rest), _square(torch_route.rest))
    posterior = steps.condition(
        _random(n, 1, 1, 0), torch.ones(5, 1).double(), torch.tensor([True])
    )
    moved, factor = steps.move(compiled, posterior)
    direct = compiled.mean + torch.einsum("bij,bj->bi", compiled.factor, posterior.shift)
    _same(moved, direct)
    _same(factor, compiled.factor @ posterior.gain)


def _wide(z: Tensor) -> Distribution:
    """Five observations of two states, the last of which says nothing."""
    a, b = z.unbind(-1)
    mean = torch.stack((a * b, a.sin(), b.exp(), a - b, torch.zeros_like(a)), -1)
    return Independent(Normal(mean, 0.1 + mean.square()), 1)


def test_jacobians_with_more_outputs_than_states() -> None:
    """Oracle: derivatives by hand."""
    z = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    step = taylor(_wide, z, factor, identity)
    (a, b), zero = z.unbind(-1), torch.zeros(3, 4, dtype=torch.float64)
    rows = (b, a), (a.cos(), zero), (zero, b.exp()), (zero + 1, zero - 1), (zero, zero)
    expected = torch.stack([torch.stack(row, -1) for row in rows], -2) @ factor
    torch.testing.assert_close(step.slope, expected, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(step.mean, _wide(z).mean)
    torch.testing.assert_close(step.spread.diagonal(dim1=-2, dim2=-1), _wide(z).stddev)
    assert not step.slope.requires_grad
    blank = taylor(lambda x: _wide(torch.zeros_like(x)), z, factor, identity)
    assert not blank.slope.any()


def test_only_what_can_be_learnt_keeps_a_graph() -> None:
    fixed = pendulum().requires_grad_(False)
    assert not Extended().log_likelihood(fixed, Series(observations(3))).requires_grad
    assert Extended().log_likelihood(pendulum(), Series(observations(3))).requires_grad
    with torch.no_grad():
        assert not Extended().log_likelihood(pendulum(), Series(observations(3))).requires_grad


def test_inference_mode_changes_nothing() -> None:
    """Torch's forward mode loses tangents there without a word."""
    model, series = pendulum(), Series(observations(5))
    with torch.inference_mode():
        inside = Extended().filter(model, series)
    outside = Extended().filter(model, series)
    torch.testing.assert_close(inside.mean, outside.mean.detach(), rtol=1e-12, atol=1e-14)
    assert outside.log_likelihood.sum().requires_grad


def test_single_precision_stays_single() -> None:
    model = pendulum().float().requires_grad_(False)
    got = Extended().smooth(model, Series(observations(20).float()))
    exact = Extended().smooth(model.double(), Series(observations(20)))
    assert got.mean.dtype == got.cov.dtype == torch.float32
    torch.testing.assert_close(got.mean.double(), exact.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        got.log_likelihood.double(), exact.log_likelihood, rtol=0, atol=1e-4
    )
