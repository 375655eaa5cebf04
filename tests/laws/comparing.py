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
