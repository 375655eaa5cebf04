from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepssm.core.gaussian import mvn, psd_factor, standard_normal_log_prob, tria


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("columns", [1, 2, 3, 7])
def test_tria_keeps_the_gramian(columns: int) -> None:
    matrix = _random(4, 3, columns)
    lower = tria(matrix)
    torch.testing.assert_close(lower @ lower.mT, matrix @ matrix.mT)
    assert (lower.triu(1) == 0).all()
    assert (lower.diagonal(dim1=-2, dim2=-1) >= 0).all()


def test_tria_gradient_of_the_triangle_itself() -> None:
    assert torch.autograd.gradcheck(tria, (_random(2, 3, 5).requires_grad_(),))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_tria_gradient_at_rank_deficiency_is_the_gramians(rank: int) -> None:
    """Oracle: the same function of `M M'`, without any triangle."""
    weight = _random(3, 3, seed=5)
    matrix = (_random(3, rank, seed=1) @ _random(rank, 4, seed=2)).requires_grad_()

    def function(gram: Tensor) -> Tensor:
        return torch.logdet(torch.eye(3, dtype=gram.dtype) + weight @ gram @ weight.mT)

    lower = tria(matrix)
    (got,) = torch.autograd.grad(function(lower @ lower.mT), matrix)
    (expected,) = torch.autograd.grad(function(matrix @ matrix.mT), matrix)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_tria_gradient_when_a_leading_pivot_is_zero() -> None:
    """The first row of `M` vanishes, but moving it changes `M M'` at first order."""
    matrix = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    weight = _random(2, 2, seed=3)
    weight = weight + weight.mT
    lower = tria(matrix)
    (got,) = torch.autograd.grad((weight * (lower @ lower.mT)).sum(), matrix)
    torch.testing.assert_close(got, 2 * weight @ matrix.detach())


def test_conditioning_through_tria_has_the_gradient_of_the_dense_formula() -> None:
    """The update array `[[C L, R], [L, 0]]` with a singular `L`, against plain covariances."""
    C, LR, weight = _random(2, 3, seed=1), _random(2, 2, seed=2), _random(3, 3, seed=3)
    base = (_random(3, 1, seed=4) @ _random(1, 3, seed=5)).requires_grad_()
    zeros = torch.zeros(3, 2, dtype=torch.float64)
    post = tria(torch.cat((torch.cat((C @ base, LR), -1), torch.cat((base, zeros), -1)), -2))
    S, G, L = post[:2, :2], post[2:, :2], post[2:, 2:]
    residual = torch.linalg.solve_triangular(S, _random(2, 1, seed=6), upper=False)
    value = (G @ residual).sum() + (weight * (L @ L.mT)).sum() + S.diagonal().log().sum()
    (got,) = torch.autograd.grad(value, base)

    P = base @ base.mT
    S_dense = C @ P @ C.mT + LR @ LR.mT
    gain = P @ C.mT @ torch.linalg.inv(S_dense)
    mean = (gain @ _random(2, 1, seed=6)).sum()
    dense = mean + (weight * (P - gain @ C @ P)).sum() + 0.5 * torch.logdet(S_dense)
    (expected,) = torch.autograd.grad(dense, base)
    torch.testing.assert_close(value, dense)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_psd_factor_of_any_rank(rank: int) -> None:
    half = _random(2, 3, rank)
    cov = half @ half.mT
    lower = psd_factor(cov)
    torch.testing.assert_close(lower @ lower.mT, cov, rtol=1e-12, atol=1e-12)
    assert (lower.triu(1) == 0).all()


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1.0, 1e12, 1e150])
def test_psd_factor_is_relative(scale: float) -> None:
    units = torch.tensor([1.0, scale], dtype=torch.float64)
    cov = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64) * units[:, None] * units
    lower = psd_factor(cov) / units[:, None]
    expected = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(lower @ lower.mT, expected, rtol=1e-14, atol=0)


def test_psd_factor_gradient_regular() -> None:
    half = _random(3, 3)
    assert torch.autograd.gradcheck(lambda h: psd_factor(h @ h.mT), (half.requires_grad_(),))


def test_psd_factor_gradient_singular() -> None:
    """A rank-one covariance with a learnt direction and size."""
    direction = _random(3, 1).requires_grad_()
    weight = _random(3, 3, seed=3)

    def through(factor: Tensor) -> Tensor:
        return torch.logdet(torch.eye(3, dtype=factor.dtype) + weight @ factor @ factor.mT)

    (got,) = torch.autograd.grad(through(psd_factor(direction @ direction.mT)), direction)
    (expected,) = torch.autograd.grad(through(direction), direction)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], "`Q` must be positive semi-definite"),
        ([[-1.0, 0.0], [0.0, 1.0]], "`Q` must be positive semi-definite"),
        ([[0.0, 1.0], [1.0, 0.0]], "`Q` must be positive semi-definite"),
        ([[1.0, 0.5], [0.0, 1.0]], "`Q` must be symmetric"),
        ([[1.0, float("nan")], [float("nan"), 1.0]], "`Q` must be finite"),
        ([[1.0, 0.5]], "`Q` must be a square matrix"),
    ],
)
def test_psd_factor_refuses_by_name(cov: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        psd_factor(torch.tensor(cov, dtype=torch.float64), "Q")


def test_mvn_with_a_singular_factor_samples_and_has_moments() -> None:
    factor = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    normal = mvn(torch.ones(2, dtype=torch.float64), factor)
    torch.testing.assert_close(normal.covariance_matrix, factor @ factor.mT)
    draw = normal.sample((5,)) - 1
    torch.testing.assert_close(draw[:, 1], 2 * draw[:, 0])


def test_standard_normal_log_prob_counts_only_what_counts() -> None:
    whitened = torch.tensor([0.3, 0.0], dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(
        standard_normal_log_prob(whitened, 1), normal.log_prob(torch.tensor(0.3)).double()
    )
