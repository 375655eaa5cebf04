"""Where the random numbers of a method come from."""

from __future__ import annotations

import torch


def source(generator: torch.Generator | None, seed: int) -> torch.Generator:
    """Return a method's source of randomness: its generator, else a new one with its seed.

    Args:
        generator: The method's field, which wins; it advances from call to call.
        seed: Of the new one, so that every call draws the same.
    """
    return torch.Generator().manual_seed(seed) if generator is None else generator
