"""All prefixes of an associative product at once, and the products of linear-Gaussian maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Element: TypeAlias = "tuple[Tensor, ...]"
"""Tensors whose first axis is time."""


def prefix_products(
    combine: Callable[[Element, Element], Element], elements: Element, *, reverse: bool = False
) -> Element:
    """Return `e_1, e_1 e_2, e_1 e_2 e_3, ...` in `O(log time)` steps.

    Args:
        combine: Maps two stacks of elements, the earlier one first, to their products, row by row.
        elements: Tensors with time first, `(time, ...)`.
        reverse: Return `e_T, e_{T-1} e_T, ...` at the places `T, T-1, ...` instead.

    Returns:
        Tensors of the same shapes.

    Source: Blelloch (1990), Prefix Sums and Their Applications, section 1.4.
    """
    if not reverse:
        return _prefixes(combine, elements)

    def swapped(first: Element, second: Element) -> Element:
        return combine(second, first)

    flipped = _prefixes(swapped, tuple(x.flip(0) for x in elements))
    return tuple(x.flip(0) for x in flipped)


def _prefixes(combine: Callable[[Element, Element], Element], e: Element) -> Element:
    size = e[0].shape[0]
    if size == 1:
        return e
    even, odd = tuple(x[0 : size - 1 : 2] for x in e), tuple(x[1::2] for x in e)
    pairs = _prefixes(combine, combine(even, odd))
    later = tuple(x[2::2] for x in e)
    count = later[0].shape[0]
    middle = combine(tuple(x[:count] for x in pairs), later) if count else later
    first = (torch.cat([x[:1], m]) for x, m in zip(e, middle, strict=True))
    return tuple(_interleave(x, y) for x, y in zip(first, pairs, strict=True))


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    pairs = torch.stack([even[: len(odd)], odd], 1).flatten(0, 1)
    return pairs if len(even) == len(odd) else torch.cat([pairs, even[-1:]])


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
