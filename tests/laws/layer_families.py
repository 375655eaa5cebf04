"""Random sequence layers and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deepssm.models import LRU, LSSL, S4, S4D, S5, Mamba
from deepssm.models.layers.base import SequenceLayer

from .linear_families import Draw
from .problems import Sizes


class Layered(NamedTuple):
    """A layer in float64 and what it reads, `(batch, time, features)`."""

    layer: SequenceLayer
    u: Tensor
    seed: int


class LayerFamily(NamedTuple):
    """Layers of one kind; `linear` ones add up what they hear."""

    name: str
    build: Callable[[int], SequenceLayer]
    linear: bool = True
    longest: int = 12

    def draw(self, sizes: Sizes, seed: int) -> Layered:
        """Build a layer and data from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = self.build(2 * sizes.state).double()
        u = Draw(seed).normal(*(sizes.batch or (1,)), sizes.time, 2 * sizes.state)
        return Layered(layer, u, seed)


LAYERS = (
    LayerFamily("s4", lambda h: S4(h, 8)),
    LayerFamily("s4d", lambda h: S4D(h, 8)),
    LayerFamily("s5", lambda h: S5(h, 8)),
    LayerFamily("lssl", lambda h: LSSL(h, 8)),
    LayerFamily("lru", lambda h: LRU(h, 8)),
    LayerFamily("mamba", lambda h: Mamba(h, 8), linear=False),
)
LINEAR_LAYERS = tuple(family for family in LAYERS if family.linear)
