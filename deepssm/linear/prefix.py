"""All prefixes of an associative product at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

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
