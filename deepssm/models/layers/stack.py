"""Blocks and stacks of sequence layers, with heads that make them useful on their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from .base import SequenceLayer, State, Step, first_step_is_nominal


@checked
class ResidualBlock(SequenceLayer):
    """`u + dropout(GLU(W gelu(layer(norm(u)))))`, or with the norm after the sum.

    Args:
        layer: What mixes in time.
        norm: Where to normalize.
        dropout: Probability.
    """

    def __init__(
        self, layer: SequenceLayer, *, norm: Literal["pre", "post"] = "pre", dropout: float = 0.0
    ) -> None:
        super().__init__(layer.features)
        self.layer = layer
        self.norm = nn.LayerNorm(layer.features)
        self.mix = nn.Linear(layer.features, 2 * layer.features)
        self.dropout = nn.Dropout(dropout)
        self.before = norm == "pre"

    def forward(
        self,
        u: Tensor,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs; arguments as in `SequenceLayer`."""
        y = self.layer(self.norm(u) if self.before else u, dt=dt, rate=rate, mask=mask)
        return self._finish(u, y)

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return the outputs and the state after them; arguments as in `SequenceLayer`."""
        inner = self.norm(u) if self.before else u
        y, state = self.layer.run(inner, state, dt=dt, rate=rate, mask=mask)
        return self._finish(u, y), state

    def stepper(self, dt: Tensor | float | None = None, rate: float = 1.0) -> Step:
        """Return a function that takes one input at a time, with equal steps."""
        advance = self.layer.stepper(dt, rate)

        def step(u: Tensor, state: State | None) -> tuple[Tensor, State]:
            y, state = advance(self.norm(u) if self.before else u, state)
            return self._finish(u, y), state

        return step

    def _finish(self, u: Tensor, y: Tensor) -> Tensor:
        y = self.dropout(nn.functional.glu(self.mix(nn.functional.gelu(y)), -1))
        return u + y if self.before else self.norm(u + y)


class Bidirectional(SequenceLayer):
    """The mean of a layer run forwards and another run backwards; it has no state to carry.

    Args:
        forwards: Layer for the past.
        backwards: Layer for the future, of the same size.
    """

    def __init__(self, forwards: SequenceLayer, backwards: SequenceLayer) -> None:
        super().__init__(forwards.features)
        self.forwards, self.backwards = forwards, backwards

    def forward(
        self,
        u: Tensor,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs; arguments as in `SequenceLayer`."""
        y = self.forwards(u, dt=dt, rate=rate, mask=mask)
        if isinstance(dt, Tensor) and dt.ndim:
            dt = first_step_is_nominal(dt.roll(-1, -1).flip(-1))
        mask = None if mask is None else mask.flip(-1)
        back = self.backwards(u.flip(-2), dt=dt, rate=rate, mask=mask)
        return (y + back.flip(-2)) / 2

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Refuse: what comes later would change these outputs."""
        raise ValueError(
            "`Bidirectional` sees the future, so a sequence cannot be cut in pieces. "
            "Call it on whole sequences, or use the forward layer alone."
        )


@checked
class SequenceModel(nn.Module):
    """Linear in, a stack of blocks, linear out: a sequence of outputs for a sequence of inputs.

    Args:
        input_dim: Size of an input.
        output_dim: Size of an output.
        blocks: Layers or blocks, all of one size; mix kinds for a hybrid.

    Raises:
        ValueError: `blocks` is empty or of differing sizes.
    """

    def __init__(self, input_dim: int, output_dim: int, blocks: list[SequenceLayer]) -> None:
        super().__init__()
        sizes = {block.features for block in blocks}
        if len(sizes) != 1:
            raise ValueError(f"`blocks` must all have one size, got the sizes {sorted(sizes)}.")
        (features,) = sizes
        self.enter = nn.Linear(input_dim, features)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(features)
        self.leave = nn.Linear(features, output_dim)

    def features(
        self,
        u: Tensor,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return what the last block says, `(*batch, time, features)`."""
        u = u if mask is None else torch.where(mask[..., None], u, torch.zeros_like(u[..., :1]))
        x = self.enter(u)
        for block in self.blocks:
            x = block(x, dt=dt, rate=rate, mask=mask)
        return self.norm(x)

    def forward(
        self,
        u: Tensor,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs, `(*batch, time, output_dim)`.

        Args:
            u: Inputs, `(*batch, time, input_dim)`.
            dt: Time steps in units of the nominal step, a scalar or `(*batch, time)`.
            rate: Factor on every step.
            mask: `(*batch, time)`, false where the input is missing.
        """
        return self.leave(self.features(u, dt=dt, rate=rate, mask=mask))

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return the outputs and the state after them, to hand to the next piece."""
        u = u if mask is None else torch.where(mask[..., None], u, torch.zeros_like(u[..., :1]))
        states: list[State] = []
        x = self.enter(u)
        for block, old in zip(self.blocks, self._states(state), strict=True):
            assert isinstance(block, SequenceLayer)
            x, new = block.run(x, old, dt=dt, rate=rate, mask=mask)
            states.append(new)
        return self.leave(self.norm(x)), tuple(states)

    def stepper(self, dt: Tensor | float | None = None, rate: float = 1.0) -> Step:
        """Return a function that takes one input `(*batch, input_dim)` at a time."""
        steps = [
            block.stepper(dt, rate) for block in self.blocks if isinstance(block, SequenceLayer)
        ]

        def step(u: Tensor, state: State | None) -> tuple[Tensor, State]:
            states: list[State] = []
            x = self.enter(u)
            for advance, old in zip(steps, self._states(state), strict=True):
                x, new = advance(x, old)
                states.append(new)
            return self.leave(self.norm(x)), tuple(states)

        return step

    def generate(
        self,
        prompt: Tensor,
        steps: int,
        draw: Callable[[Tensor], Tensor],
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
    ) -> Tensor:
        """Continue a sequence, each output turned into the next input.

        Args:
            prompt: Inputs so far, `(*batch, time, input_dim)`.
            steps: How many to add.
            draw: Maps an output `(*batch, output_dim)` to the next input `(*batch, input_dim)`.
            dt: Time step, a scalar.
            rate: Factor on it.

        Returns:
            New inputs, `(*batch, steps, input_dim)`.

        Raises:
            ValueError: `steps` is not positive.
        """
        if steps < 1:
            raise ValueError(f"`steps` must be 1 or more, got {steps}.")
        outputs, state = self.run(prompt, dt=dt, rate=rate)
        advance, made = self.stepper(dt, rate), [draw(outputs[..., -1, :])]
        while len(made) < steps:
            output, state = advance(made[-1], state)
            made.append(draw(output))
        return torch.stack(made, -2)

    def _states(self, state: State | None) -> tuple[State | None, ...]:
        if state is None:
            return (None,) * len(self.blocks)
        if not isinstance(state, tuple) or len(state) != len(self.blocks):
            raise ValueError(f"`state` must be a tuple of {len(self.blocks)} states, one a block.")
        return state
