"""Prefix products against plain loops, Gaussian ones against a textbook filter and smoother."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from deepssm.linear.prefix import Element, prefix_products

F64 = torch.float64


@pytest.mark.parametrize("time", [1, 2, 3, 8, 13])
def test_prefixes_of_matrices_equal_a_loop(time: int) -> None:
    e = torch.randn(time, 3, 3, dtype=F64)

    def combine(first: Element, second: Element) -> Element:
        return (first[0] @ second[0],)

    (forwards,) = prefix_products(combine, (e,))
    (backwards,) = prefix_products(combine, (e,), reverse=True)
    for t in range(time):
        expected = torch.linalg.multi_dot(list(e[: t + 1])) if t else e[0]
        torch.testing.assert_close(forwards[t], expected)
        expected = torch.linalg.multi_dot(list(e[t:])) if t < time - 1 else e[-1]
        torch.testing.assert_close(backwards[t], expected)


def gaussian(time: int) -> tuple[Tensor, ...]:
    """Return time-varying `A, Q, C, R, y, m0, P0` of 3 states, 2 observations, `Q` of rank 2."""
    torch.manual_seed(1)
    A, L = 0.6 * torch.randn(time, 3, 3, dtype=F64), torch.randn(time, 3, 2, dtype=F64)
    C, r = torch.randn(time, 2, 3, dtype=F64), torch.randn(time, 2, 2, dtype=F64)
    R, p = r @ r.mT + torch.eye(2, dtype=F64), torch.randn(3, 3, dtype=F64)
    y, m0 = torch.randn(time, 2, dtype=F64), torch.randn(3, dtype=F64)
    return A, L @ L.mT, C, R, y, m0, p @ p.mT


class FilterElement(NamedTuple):
    """`p(z_t | y_t, z) = N(A z + b, C)`, `p(y_t | z) ~ exp(eta' z - z' J z / 2)`, `z = z_{t-1}`.

    Attributes:
        A: `(time, *batch, n, n)`.
        b: `(time, *batch, n)`.
        C: `(time, *batch, n, n)`.
        eta: `(time, *batch, n)`.
        J: `(time, *batch, n, n)`.
    """

    A: Tensor
    b: Tensor
    C: Tensor
    eta: Tensor
    J: Tensor


def combine_filtering(first: Element, second: Element) -> Element:
    """Return the product of two filter elements; prefixes hold the filtered mean `b` and cov `C`.

    Args:
        first: The earlier `FilterElement`.
        second: The later one.

    Source: Sarkka & Garcia-Fernandez (2021), Temporal Parallelization of Bayesian Smoothers,
        lemma 8.
    """
    A1, b1, C1, eta1, J1 = first
    A2, b2, C2, eta2, J2 = second
    eye = torch.eye(A1.shape[-1], dtype=A1.dtype, device=A1.device)
    # (I + C1 J2)^-1 from the right of A2, and its transpose for the information form.
    forward = torch.linalg.solve(eye + C1 @ J2, A2, left=False)
    backward = torch.linalg.solve(eye + J2 @ C1, A1.mT, left=False)
    b = (forward @ (b1 + (C1 @ eta2[..., None])[..., 0])[..., None])[..., 0] + b2
    eta = (backward @ (eta2 - (J2 @ b1[..., None])[..., 0])[..., None])[..., 0] + eta1
    C = forward @ C1 @ A2.mT + C2
    J = backward @ J2 @ A1 + J1
    return FilterElement(forward @ A1, b, (C + C.mT) / 2, eta, (J + J.mT) / 2)


def combine_smoothing(first: Element, second: Element) -> Element:
    """Return the product of `z_t | z_{t+1} ~ N(E z_{t+1} + g, L)`, elements `(E, g, L)`.

    Reverse prefixes hold the smoothed mean `g` and covariance `L` when the last element has
    `E = 0` and the filtered moments of the end.

    Args:
        first: The earlier element.
        second: The later one.

    Source: Sarkka & Garcia-Fernandez (2021), lemma 10.
    """
    E1, g1, L1 = first
    E2, g2, L2 = second
    L = E1 @ L2 @ E1.mT + L1
    return E1 @ E2, (E1 @ g2[..., None])[..., 0] + g1, (L + L.mT) / 2


def test_gaussian_products_filter_and_smooth() -> None:
    time = 21
    A, Q, C, R, y, m0, P0 = gaussian(time)
    eye = torch.eye(3, dtype=F64)
    m, P, means, covs = m0, P0, [], []
    for t in range(time):
        if t:
            m, P = A[t] @ m, A[t] @ P @ A[t].mT + Q[t]
        K = P @ C[t].mT @ torch.linalg.inv(C[t] @ P @ C[t].mT + R[t])
        m, P = m + K @ (y[t] - C[t] @ m), (eye - K @ C[t]) @ P
        means.append(m)
        covs.append(P)

    S_inverse = torch.linalg.inv(C @ Q @ C.mT + R)
    K = Q @ C.mT @ S_inverse
    rest = eye - K @ C
    CA = C @ A
    elements = FilterElement(
        rest @ A,
        (K @ y[..., None])[..., 0],
        rest @ Q,
        (CA.mT @ S_inverse @ y[..., None])[..., 0],
        CA.mT @ S_inverse @ CA,
    )
    start = FilterElement(0 * eye, means[0], covs[0], torch.zeros(3, dtype=F64), 0 * eye)
    joined = (torch.cat([s[None], e[1:]]) for s, e in zip(start, elements, strict=True))
    _, mean, cov, _, _ = prefix_products(combine_filtering, tuple(joined))
    torch.testing.assert_close(mean, torch.stack(means), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(cov, torch.stack(covs), rtol=1e-11, atol=1e-11)

    predicted = A[1:] @ cov[:-1] @ A[1:].mT + Q[1:]
    E = cov[:-1] @ A[1:].mT @ torch.linalg.inv(predicted)
    g = mean[:-1] - (E @ A[1:] @ mean[:-1, :, None])[..., 0]
    L = cov[:-1] - E @ predicted @ E.mT
    ends = zip((E, g, L), (0 * eye, mean[-1], cov[-1]), strict=True)
    parts = tuple(torch.cat([x, end[None]]) for x, end in ends)
    _, smoothed, smoothed_cov = prefix_products(combine_smoothing, parts, reverse=True)
    s, V = means[-1], covs[-1]
    for t in reversed(range(time - 1)):
        s = means[t] + E[t] @ (s - A[t + 1] @ means[t])
        V = covs[t] + E[t] @ (V - predicted[t]) @ E[t].mT
        torch.testing.assert_close(smoothed[t], s, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(smoothed_cov[t], V, rtol=1e-10, atol=1e-10)
