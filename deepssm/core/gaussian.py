"""Gaussian algebra that every filter shares: factors instead of covariances.

A *factor* of a covariance `P` is any matrix `L` with `L L' = P`. Factors are moved by orthogonal
transformations only, which keeps `P` positive semi-definite and needs no jitter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def tria(matrix: Tensor) -> Tensor:
    """Triangularise: return the lower-triangular `L` with `L L' = M M'`, diagonal not negative.

    The gradient is that of the Gramian `M M'`. It needs no inverse of a zero pivot, so it is
    right for a rank-deficient `M` whenever what follows depends on `L` through `L L'` alone.

    Args:
        matrix: `M`, `(*batch, rows, columns)`, any rank.

    Returns:
        `(*batch, rows, rows)`.

    Source: Corenflos (2026), arXiv 2603.13559 (gradient); Golub & Van Loan (2013), section 5.2.
    """
    if torch.is_grad_enabled() and matrix.requires_grad:
        return _Tria.apply(matrix)[0]  # type: ignore[index]
    upper = torch.linalg.qr(_at_least_square(matrix).mT, mode="r").R
    return (_signs(upper)[..., :, None] * upper).mT


def psd_factor(cov: Tensor, name: str = "cov", *, eps: float | None = None) -> Tensor:
    """Return the lower-triangular `L` with `L L' = P` for a positive semi-definite `P`.

    Nothing is added to `P`: a singular matrix gets a factor with zero columns. The gradient of
    a singular `P` covers the changes that keep its null space.

    Args:
        cov: `P`, `(*batch, n, n)`, symmetric, possibly singular.
        name: What to call `P` in an error.
        eps: Relative rounding of the entries of `P`, if coarser than that of its dtype: what was
            singular in float32 is slightly indefinite when read in float64.

    Returns:
        `(*batch, n, n)`.

    Raises:
        ValueError: `P` is not square, not finite, not symmetric, or has a negative eigenvalue.
    """
    eps = torch.finfo(cov.dtype).eps if eps is None else eps
    _require_symmetric(cov, name, eps)
    scale = cov.detach().diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    # Scaling to unit diagonal makes every test relative; `safe` cancels, so it needs no gradient.
    correlation = cov / (safe[..., :, None] * safe[..., None, :])
    factor, info = torch.linalg.cholesky_ex(correlation)
    if bool((info != 0).any()):
        factor = _SingularFactor.apply(correlation, name, eps)
    return safe[..., :, None] * factor  # type: ignore[operator]


def mvn(mean: Tensor, factor: Tensor) -> dist.MultivariateNormal:
    """Return `N(mean, L L')` for a lower-triangular `L` that may be singular.

    Args:
        mean: `(*batch, n)`.
        factor: `L`, `(*batch, n, n)`; its zero pivots are directions without noise, in which
            the density is not defined while sampling and moments are.
    """
    return dist.MultivariateNormal(mean, scale_tril=factor, validate_args=False)


class Pushforward(dist.TorchDistribution):
    """The distribution of `function(w)`, `w ~ N(0, L L')`: noise that enters inside a function.

    It can be sampled, and filtered through by moments; it has no density.

    Args:
        function: Maps `(*batch, noise)` to `(*batch, n)`.
        factor: `L`, `(noise, noise)`.
        batch_shape: `batch`.
    """

    has_rsample = True
    arg_constraints: dict[str, dist.constraints.Constraint] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(
        self, function: Callable[[Tensor], Tensor], factor: Tensor, batch_shape: torch.Size
    ) -> None:
        self.function, self.factor = function, factor
        size = function(factor.new_zeros(*batch_shape, factor.shape[-1])).shape[-1:]
        super().__init__(batch_shape, size, validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw, differentiably, `(*sample_shape, *batch, n)`."""
        shape = (*sample_shape, *self.batch_shape, self.factor.shape[-1])
        noise = torch.randn(shape, dtype=self.factor.dtype, device=self.factor.device)
        return self.function(noise @ self.factor.mT)


def outer(factor: Tensor) -> Tensor:
    """Return the covariance `L L'` of a factor, `(*batch, n, k)` to `(*batch, n, n)`."""
    return factor @ factor.mT


def beside(*matrices: Tensor) -> Tensor:
    """Put matrices side by side, `(*batch, rows, k_i)` to `(*batch, rows, sum k_i)`.

    Batch axes broadcast. If each is a factor, so is the result: of the sum of their covariances.
    """
    batch = torch.broadcast_shapes(*(matrix.shape[:-2] for matrix in matrices))
    return torch.cat([matrix.expand(*batch, *matrix.shape[-2:]) for matrix in matrices], -1)


def standard_normal_log_prob(whitened: Tensor, count: Tensor | int) -> Tensor:
    """Return `-(e'e + count log 2 pi) / 2` over the last axis.

    Args:
        whitened: Standardised errors `e`, `(*batch, n)`; entries that do not count are zero.
        count: How many entries count, `(*batch,)`.
    """
    # An integer tensor times a float would be float32, whatever `whitened` is.
    entries = torch.as_tensor(count, dtype=whitened.dtype, device=whitened.device)
    return -0.5 * ((whitened * whitened).sum(-1) + entries * math.log(2 * math.pi))


class Whitened(NamedTuple):
    """Components decorrelated in their order, on the support of their distribution.

    Attributes:
        error: Standardised errors, `(*batch, n)`: 0 where earlier components determine one and it
            agrees, infinite where it cannot be.
        log_scale: Logarithms of their deviations, `(*batch, n)`, 0 where determined.
        counts: Which components have a density, `(*batch, n)`.
    """

    error: Tensor
    log_scale: Tensor
    counts: Tensor


def whiten(error: Tensor, cov: Tensor, size: Tensor | None = None) -> Whitened:
    """Decorrelate errors under a covariance that may be singular.

    The density on the support is `exp(-e'e / 2 - sum log_scale) (2 pi)^(-counts / 2)`. Where a
    component has no variance given the earlier ones it has no density of its own: it adds nothing
    if it is what it must be, and makes the rest impossible if it is not.

    Args:
        error: `(*batch, n)`.
        cov: `(*batch, n, n)`, positive semi-definite.
        size: Size of what the errors are differences of, `(*batch, n)`: their round-off.
    """
    factor, info = torch.linalg.cholesky_ex(cov)
    variance = cov.diagonal(dim1=-2, dim2=-1)
    pivots, tiny = factor.diagonal(dim1=-2, dim2=-1), _singular(cov)
    part = pivots.square() / torch.where(variance > 0, variance, 1.0)
    # A small pivot magnifies the round-off of all later ones.
    before = torch.cat([torch.ones_like(part[..., :1]), part], -1).cummin(-1).values[..., :-1]
    if not bool((info != 0).any()) and bool((part * before[..., : part.shape[-1]] > tiny).all()):
        white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
        return Whitened(white, pivots.log(), torch.ones_like(white, dtype=torch.bool))
    return _on_support(error, cov, torch.zeros_like(error) if size is None else size)


def _on_support(error: Tensor, cov: Tensor, size: Tensor) -> Whitened:
    """Eliminate one component after the other, passing over those that have no variance left."""
    variance, tiny = cov.diagonal(dim1=-2, dim2=-1), _singular(cov)
    rounding = 1e6 * torch.finfo(cov.dtype).eps * size
    smallest = torch.ones_like(variance[..., :1])[..., 0] if variance.shape[-1] else variance
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in range(cov.shape[-1]):
        pivot, left = cov[..., i, i], error[..., i]
        limit = tiny * variance[..., i].clamp_min(0) / smallest
        regular = pivot > limit
        root = torch.where(regular, pivot, 1.0).sqrt()
        # Round-off of a variance lets a determined component be off by the root of it.
        off = left.abs() > 10 * limit.sqrt() + rounding[..., i]
        impossible = torch.where(off, torch.inf * left.sign(), 0.0)
        part = torch.where(regular, pivot / variance[..., i].clamp_min(1e-300), 1.0)
        smallest = torch.minimum(smallest, part)
        column = torch.where(regular[..., None], cov[..., :, i] / root[..., None], 0.0)
        used = torch.where(regular, left / root, 0.0)
        cov = cov - column[..., :, None] * column[..., None, :]
        error = error - column * used[..., None]
        columns.append((torch.where(regular, used, impossible), root.log(), regular))
    parts = zip(*columns, strict=True)
    return Whitened(*(torch.stack(part, -1) for part in parts)) if columns else _nothing(error)


def _singular(cov: Tensor) -> float:
    """Part of a variance that is round-off of the sums that make up a covariance."""
    return 100 * max(cov.shape[-1], 1) * torch.finfo(cov.dtype).eps


def _nothing(error: Tensor) -> Whitened:
    return Whitened(error, error, torch.ones_like(error, dtype=torch.bool))


class _Tria(torch.autograd.Function):
    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor]:
        q, r = torch.linalg.qr(_at_least_square(matrix).mT)
        sign = _signs(r)[..., :, None]
        return (sign * r).mT, sign * q.mT[..., : matrix.shape[-1]]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor_bar: Tensor, _: Tensor) -> Tensor:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        factor, rotation = ctx.saved_tensors
        return _gramian_cotangent(factor, factor_bar)[0] @ rotation


class _SingularFactor(torch.autograd.Function):
    @staticmethod
    def forward(cov: Tensor, name: str, eps: float) -> Tensor:
        values, vectors = torch.linalg.eigh(cov)
        largest = values[..., -1:].clamp_min(0)
        if bool((values < -1e4 * eps * cov.shape[-1] * largest).any()):
            raise ValueError(
                f"`{name}` must be positive semi-definite, but its correlation matrix has the "
                f"eigenvalue {values.min().item():.3g}. Pass a covariance, not a factor or a "
                "precision, and check its signs."
            )
        return _Tria.forward(vectors * values.clamp_min(0).sqrt()[..., None, :])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str, float], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor_bar: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        (factor,) = ctx.saved_tensors
        cotangent, _ = _gramian_cotangent(factor, factor_bar)
        inverse = torch.linalg.pinv(factor, rtol=1e3 * torch.finfo(factor.dtype).eps)
        # `half` is `G P` for the cotangent G of P and the projector P on its range.
        half, projector = 0.5 * cotangent @ inverse, factor @ inverse
        both = projector @ half
        return half + half.mT - 0.5 * (both + both.mT), None, None


def _at_least_square(matrix: Tensor) -> Tensor:
    missing = matrix.shape[-2] - matrix.shape[-1]
    return torch.nn.functional.pad(matrix, (0, missing)) if missing > 0 else matrix


def _signs(upper: Tensor) -> Tensor:
    diagonal = upper.diagonal(dim1=-2, dim2=-1)
    return torch.where(diagonal < 0, -torch.ones_like(diagonal), torch.ones_like(diagonal))


def _gramian_cotangent(factor: Tensor, factor_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Return `X = 2 G L`, `G` being the cotangent of `L L'`, and which pivots are not zero.

    `X` agrees with `factor_bar` in the lower triangle, and `L' X` is symmetric: that fixes the
    upper triangle by back substitution, except in rows whose pivot is zero, which only what
    reads all of `L` as a matrix can know.
    """
    size = factor.norm(dim=-1)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    good = pivots > 10 * factor.shape[-1] * torch.finfo(factor.dtype).eps * size
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    lower = factor_bar.tril()
    solvable = torch.where(good[..., None, :], factor, eye)
    symmetric = (factor.mT @ lower).tril(-1).mT
    upper = torch.where(good[..., :, None], symmetric, factor_bar.triu(1))
    right = (solvable.mT @ lower).tril() + upper
    return torch.linalg.solve_triangular(solvable.mT, right, upper=True), good


def _require_symmetric(cov: Tensor, name: str, eps: float) -> None:
    if cov.ndim < 2 or cov.shape[-1] != cov.shape[-2]:
        raise ValueError(
            f"`{name}` must be a square matrix or a stack of them, got {tuple(cov.shape)}."
        )
    with torch.no_grad():
        size = cov.abs().amax((-2, -1)) if cov.shape[-1] else cov.new_zeros(())
        gap = (cov - cov.mT).abs().amax((-2, -1)) if cov.shape[-1] else size
        diagonal = cov.diagonal(dim1=-2, dim2=-1)
        if not bool(torch.isfinite(size).all()):
            raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
        if bool((gap > 1e4 * eps * size).any()):
            raise ValueError(
                f"`{name}` must be symmetric, but differs from its transpose by "
                f"{gap.max().item():.3g}. Use `({name} + {name}.mT) / 2` if that is round-off."
            )
        if bool((diagonal < 0).any()):
            raise ValueError(
                f"`{name}` must be positive semi-definite, but has the variance "
                f"{diagonal.min().item():.3g} on its diagonal."
            )
