from __future__ import annotations

import pytest
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from deepssm.core.model import Series
from deepssm.inference.gaussian.methods import Extended, Unscented
from deepssm.models.gaussian.nonlinear import NonlinearGaussian

EYE = torch.eye(2, dtype=torch.float64)


def build(**changes: object) -> NonlinearGaussian:
    numbers: dict[str, object] = dict(Q=EYE, R=EYE[:1, :1], m0=torch.zeros(2).double(), P0=EYE)
    functions = (lambda z, u, dt: z.sin(), lambda z, u: z[..., :1])
    return NonlinearGaussian(*functions, **{**numbers, **changes})  # type: ignore[arg-type]


def test_densities_are_vectorised_over_leading_axes() -> None:
    model = build(Q=[[0.5, 0.1], [0.1, 0.4]], circular_state=(0,))
    z = torch.randn(4, 3, 2, dtype=torch.float64)
    moved = model.transition(z)
    assert moved.batch_shape == (4, 3)
    expected = torch.distributions.MultivariateNormal(z.sin(), model.Q)
    torch.testing.assert_close(moved.log_prob(z), expected.log_prob(z))
    assert model.emission(z).sample().shape == (4, 3, 1)
    assert model.initial().event_shape == (2,)
    assert (model.state_dim, model.obs_dim, model.dtype) == (2, 1, torch.float64)


def test_numbers_are_fixed_and_parameters_are_learnt() -> None:
    model = build(
        Q=nn.Parameter(0.5 * EYE), R=PyroParam(EYE[:1, :1], constraints.positive_definite)
    )
    names = {name for name, _ in model.named_parameters()}
    assert names == {"Q_unconstrained", "R_unconstrained"}
    torch.testing.assert_close(model.Q.detach(), 0.5 * EYE)
    total = Extended().log_likelihood(model, Series(torch.ones(4, 1, dtype=torch.float64))).sum()
    total.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_a_fixed_covariance_is_factored_again_when_it_changes() -> None:
    model = build()
    model.initial()
    model.P0.mul_(4.0)
    torch.testing.assert_close(model.initial().covariance_matrix, 4 * EYE)
    model.float()
    assert model.initial().covariance_matrix.dtype == torch.float32


class Diffusion(nn.Module):
    """Noise that grows with the time elapsed, its rate learnable."""

    def __init__(self) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, dt: Tensor | None) -> Tensor:
        assert dt is not None
        return self.log_rate.exp() * dt[..., None, None] * EYE


@pytest.mark.parametrize("method", [Extended(), Unscented()])
def test_noise_may_depend_on_the_time_elapsed(method: Extended | Unscented) -> None:
    model = build(Q=Diffusion())
    dt = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    y = torch.full((3, 1), torch.nan, dtype=torch.float64)
    still = build(Q=0 * EYE)
    got, base = (
        method.filter(model, Series(y, None, dt)),
        method.filter(still, Series(y, None, dt)),
    )
    first = torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(got.cov[1] - base.cov[1], first * EYE)
    seen = Series(torch.ones(3, 1, dtype=torch.float64), None, dt)
    method.log_likelihood(model, seen).sum().backward()
    assert "noise_function.log_rate" in dict(model.named_parameters())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Q": torch.eye(3)}, "`Q` must be \\(2, 2\\)"),
        ({"P0": torch.eye(1)}, "`P0` must be \\(2, 2\\)"),
        ({"R": [[1.0, 0.0]]}, "`R` must be \\(2, 2\\)"),
        ({"Q": [[1.0, 2.0], [2.0, 1.0]]}, "`Q` must be positive semi-definite"),
        ({"R": [[-1.0]]}, "`R` must be positive semi-definite"),
    ],
)
def test_bad_numbers_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize("method", [Extended(), Unscented()], ids=["extended", "unscented"])
def test_functions_that_lose_an_axis_are_refused(method: Extended | Unscented) -> None:
    """`z[..., 0]` of a batch of points would be taken for one observation of many components."""
    series = Series(torch.zeros(3, 1, dtype=torch.float64))
    numbers: dict[str, object] = dict(Q=EYE, R=EYE[:1, :1], m0=torch.zeros(2).double(), P0=EYE)
    flat = NonlinearGaussian(lambda z, u, dt: z, lambda z, u: z[..., 0], **numbers)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`emission` must return `\(\*axes, 1\)`, got"):
        method.filter(flat, series)
    flat = NonlinearGaussian(lambda z, u, dt: z.sum(-1), lambda z, u: z[..., :1], **numbers)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`transition` must return `\(\*axes, 2\)`, got"):
        method.filter(flat, series)
