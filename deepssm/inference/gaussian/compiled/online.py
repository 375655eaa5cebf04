"""One series, one observation at a time, by the same loop that runs over whole series."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ....core.model import Series, StateSpaceModel
from ....ops.compiling import told
from ....ops.lanes import numbers
from ....ops.tracing.program import Untraceable
from .run import Arrays, CompiledMethod, prepare, scratch
from .sides import sides


class RunningSteps:
    """Mean and factor of a state that a compiled loop moves on.

    A prediction waits for the observation that follows it, as both take one call; whoever reads
    the state before calls `settle`.

    Args:
        method: A Gaussian filter.
        model: The model; its numbers are read once.
        mean: `(state,)`.
        factor: Lower triangular, `(state, state)`.
        trust: In the last observation, `(obs,)`.
        timed: Whether steps have lengths.

    Raises:
        Untraceable: Why the model runs as torch.
    """

    def __init__(
        self, method: CompiledMethod, model: StateSpaceModel, mean: Tensor, factor: Tensor,
        trust: Tensor,
        timed: bool,
    ) -> None:  # fmt: skip
        y = torch.full((2, model.obs_dim), torch.nan, dtype=model.dtype)
        u = y.new_zeros(2, model.input_dim) if model.input_dim else None
        series = Series(y, u, y.new_ones(2) if timed else None)
        prepared = prepare(method, model, series, at_once=True)
        self._prepared = prepared  # machine code lives as long as its steps
        F, H = sides(model, prepared.steps, prepared.rules, series, 1)
        if F[6].shape[1] > 1:
            raise Untraceable("its noise is computed anew for each time step")
        n, p, inputs = model.state_dim, model.obs_dim, model.input_dim + timed
        self._timed, self._width, self._waiting = timed, model.input_dim, False
        self._y, self._u = np.full((1, 1, p), np.nan), np.zeros((1, 1, inputs))
        self._row, self._drive, self._nothing = self._y[0, 0], self._u[0, 0], np.full(p, np.nan)
        empty = np.empty((0, 1, 0))
        made = [np.empty((1, 1, n)), *[empty] * 3, np.empty((1, 1)), np.empty((1, 1, p))]
        self._out = Arrays._make([*made, np.empty((1, 1, n * n)), *[empty] * 5])
        self._mean, self._factor = _array(mean)[None], _array(factor)[None]
        self._out.trust[0, 0] = _array(trust)
        rules = np.array([*prepared.doubt, method.iterations, 0, 0], dtype=np.int64)
        self._stay, self._move = rules, rules.copy()
        self._move[-1] = 1
        work = numbers(scratch(F, H, n, p, inputs), 1)
        self._args = F, H, prepared.numbers, work, tuple(self._out)
        self._parts = self._mean[0], self._factor[0], self._out.mean[0, 0]
        self._flat = self._out.factor[0, 0].reshape(n, n)
        from .forward_kernels import forward_all

        self._loop = forward_all
        self._told = False

    def predict(self, dt: float | None, u: np.ndarray | None) -> None:
        """Move on by one step, when it is needed."""
        if self._waiting:
            self.settle()
        self._waiting = True
        if self._width:
            self._drive[: self._width] = 0.0 if u is None else u
        if self._timed:
            self._drive[self._width] = 0.0 if dt is None else dt

    def update(self, y: np.ndarray, u: np.ndarray | None) -> float:
        """Condition on an observation, NaN where missing, and return its log-density."""
        if u is not None:
            if self._waiting:
                self.settle()
            self._drive[: self._width] = u
        self._row[:] = y
        return self._run()

    def settle(self) -> None:
        """Carry out a prediction that waits."""
        if self._waiting:
            trust = self._out.trust.copy()
            self._row[:] = self._nothing
            self._run()
            self._out.trust[:] = trust

    @property
    def trust(self) -> Tensor:
        """Trust in the last observation, `(obs,)`."""
        return torch.from_numpy(self._out.trust[0, 0].copy())

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """Mean and factor of the current state."""
        self.settle()
        mean, factor, _ = self._parts
        return torch.from_numpy(mean.copy()), torch.from_numpy(factor.copy())

    def _run(self) -> float:
        F, H, values, work, out = self._args
        rules = self._move if self._waiting else self._stay
        args = self._y, self._u, self._mean, self._factor, F, H, rules, values, work, out
        bad = self._loop(0, 1, *args) if self._told else told(self._loop, 0, 1, *args)
        self._told = True
        if bad:
            raise Untraceable("some observation has no noise of its own")
        self._waiting = False
        mean, factor, new = self._parts
        mean[:] = new
        factor[:] = self._flat
        return float(self._out.log_likelihood[0, 0])


def _array(x: Tensor) -> np.ndarray:
    return np.array(x.detach().double().numpy(), order="C")
