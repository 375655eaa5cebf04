"""A sequence layer of one's own: `run` and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepssm.models import Bidirectional, ResidualBlock, SequenceLayer, SequenceModel
from deepssm.models.layers.base import State, entering, tensor


class Decay(SequenceLayer):
    """`x_t = a x_{t-1} + u_t` for each feature."""

    slow_parameters = ("log_rate",)

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.log_rate = nn.Parameter(torch.linspace(-2.0, 0.0, features))

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        outputs, x = [], tensor(state)
        for now in entering(self, u, mask).unbind(-2):
            x = now if x is None else torch.exp(-self.log_rate.exp() * rate) * x + now
            outputs.append(x)
        return torch.stack(outputs, -2), outputs[-1]


def _inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_it_works_wherever_a_layer_does() -> None:
    torch.manual_seed(0)
    u = _inputs(2, 9, 3)
    model = SequenceModel(3, 2, [ResidualBlock(Decay(4)), Decay(4)])
    whole, _ = model.run(u)
    torch.testing.assert_close(model(u), whole)
    head, state = model.run(u[:, :5])
    tail, _ = model.run(u[:, 5:], state)
    torch.testing.assert_close(torch.cat([head, tail], 1), whole)
    step, state, outputs = model.stepper(), None, []
    for now in u.unbind(1):
        y, state = step(now, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    assert model.generate(u, 4, lambda y: torch.cat([y, y[..., :1]], -1)).shape == (2, 4, 3)
    whole.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_both_directions_and_missing_inputs() -> None:
    forwards, backwards = Decay(4), Decay(4)
    u = _inputs(2, 9, 4)
    both = Bidirectional(forwards, backwards)(u)
    mean = (forwards(u) + backwards(u.flip(-2)).flip(-2)) / 2
    torch.testing.assert_close(both, mean)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 3] = False
    poisoned = u.clone()
    poisoned[:, 3] = torch.nan
    torch.testing.assert_close(forwards(poisoned, mask=mask), forwards(u, mask=mask))
