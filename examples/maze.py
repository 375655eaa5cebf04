"""Lost in a maze: a hidden Markov model whose state is the position and whose inputs are moves.

A walker orders moves; one in ten slips. At every step it feels walls on its four sides, wrongly
one time in ten. The filter knows the map, the orders and the readings, and finds the walker;
Viterbi draws the whole walk. Then the chance to slip is forgotten and learnt again.

Run: python examples/maze.py [steps]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import deepssm as ds
from deepssm.models import BernoulliStates, HiddenMarkov

MAZE = """
#########
#...#...#
#.#.#.#.#
#.#...#.#
#.#####.#
#.......#
#########
"""
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


def cells() -> list[tuple[int, int]]:
    """Return the free cells of the maze."""
    rows = MAZE.strip().splitlines()
    return [(r, c) for r, row in enumerate(rows) for c, mark in enumerate(row) if mark == "."]


def arrivals() -> Tensor:
    """Return `(move, from, to)`: one where a move leads, walls leaving the walker in place."""
    free = cells()
    table = torch.zeros(4, len(free), len(free), dtype=torch.float64)
    for m, (down, right) in enumerate(MOVES):
        for i, (r, c) in enumerate(free):
            there = (r + down, c + right)
            table[m, i, free.index(there) if there in free else i] = 1.0
    return table


class Moves(nn.Module):
    """`p(cell_t | cell_{t-1}, order)`: as ordered, or any other move after a slip."""

    def __init__(self, slip: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.logit(torch.tensor(slip, dtype=torch.float64)))
        self.register_buffer("table", arrivals())

    def forward(self, u: Tensor | None, dt: Tensor | None) -> Tensor:
        """Return `(*axes, cells, cells)` for one-hot orders `u`, `(*axes, 4)`."""
        assert u is not None
        slip = torch.sigmoid(self.logit)
        choice = (1 - slip) * u + slip * (1 - u) / 3
        return torch.einsum("...m,mij->...ij", choice, self.table)


def walker(slip: float = 0.1, wrong: float = 0.1) -> HiddenMarkov:
    """Return the model of a walker who may start anywhere."""
    free = cells()
    walls = torch.tensor([[(r + a, c + b) not in free for a, b in MOVES] for r, c in free])
    feel = BernoulliStates(len(free), 4)
    with torch.no_grad():
        feel.logits.copy_(torch.logit(torch.where(walls, 1 - wrong, wrong).double()))
    feel.requires_grad_(False)
    start = torch.full((len(free),), 1 / len(free), dtype=torch.float64)
    return HiddenMarkov(feel, initial=start, transition=Moves(slip), input_dim=4)


def main(steps: int = 300, seed: int = 0) -> dict[str, float]:
    """Print how often the walker is found, and the slip learnt.

    Args:
        steps: Length of the walk.
        seed: Of the walk.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = torch.randint(4, (steps,), generator=generator)
    u = torch.nn.functional.one_hot(orders, 4).double()
    model = walker()
    z, y = ds.simulate(model, steps, u=u, generator=generator)
    truth = z.argmax(-1)
    filtered = ds.filter(model, y, u).mean.argmax(-1)
    smoothed = ds.smooth(model, y, u).mean.argmax(-1)
    path, _ = ds.inference.ForwardBackward().viterbi(model, ds.Series(y, u))
    found = {
        "found by the filter": (filtered == truth).double().mean().item(),
        "found by the smoother": (smoothed == truth).double().mean().item(),
        "found by Viterbi": (path == truth).double().mean().item(),
    }
    forgetful = walker(slip=0.4)
    ds.fit(forgetful, y, u, progress=False)
    law = forgetful.transition_function
    assert isinstance(law, Moves)
    found["slip learnt (0.1 in truth)"] = torch.sigmoid(law.logit).item()
    for name, value in found.items():
        print(f"{name:28} {value:.3f}")
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
