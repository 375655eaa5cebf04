"""How two answers are compared."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from deepssm.core.results import Filtered, Smoothed


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Assert equality to a tolerance relative to the larger of 1 and the largest number."""
    finite = expected[expected.isfinite()].abs()
    scale = max(1.0, float(finite.max())) if finite.numel() else 1.0
    torch.testing.assert_close(
        actual, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True
    )


def same(actual: Filtered | Smoothed, expected: Filtered | Smoothed, tolerance: float) -> None:
    """Assert equal moments and log-likelihoods."""
    close(actual.log_likelihood, expected.log_likelihood, tolerance)
    close(actual.mean, expected.mean, tolerance)
    close(actual.cov, expected.cov, tolerance)


def indices(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the indices of all series of a batch."""
    return list(itertools.product(*(range(n) for n in shape)))


def close_where_known(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Assert equal covariances of what is determined, and that the same variances are infinite.

    Between two open components the sign of an infinite covariance is left to round-off.
    """
    open_ = expected.diagonal(dim1=-2, dim2=-1).isinf()
    assert torch.equal(actual.diagonal(dim1=-2, dim2=-1).isinf(), open_)
    known = ~(open_[..., :, None] | open_[..., None, :])
    none = torch.zeros_like(expected)
    close(torch.where(known, actual, none), torch.where(known, expected, none), tolerance)
