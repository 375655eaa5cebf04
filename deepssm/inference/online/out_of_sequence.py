"""Out-of-sequence measurements: a running filter that rolls back some steps and replays them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.methods import OnlineFilter
from ...core.model import Data
from ...io.arrays import read_numbers
from .wrapping import Around


@dataclass
class _Step:
    """One step: how it was reached, the state before its observations, and the observations."""

    state: dict[str, Tensor]
    dt: float | None = None
    u: Tensor | None = None
    observations: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)


@checked
class BufferedFilter(Around):
    """A running filter that takes out-of-sequence measurements up to `size` steps old, exactly.

    It remembers the states before the last `size + 1` steps' observations. An out-of-sequence
    measurement is put in its place, and the steps after it are replayed, so that the result is
    that of data in order.

    Args:
        inner: A running filter at its start.
        size: How many steps old a measurement may be.
    """

    def __init__(self, inner: OnlineFilter, size: int) -> None:
        super().__init__(inner)
        self.size = size
        self._steps = deque([_Step(inner.state_dict())], maxlen=size + 1)

    def predict(self, dt: float | None = None, u: Data | None = None) -> None:
        """Move the state one step; `dt` and `u` are those of the arriving step."""
        self.inner.predict(dt, u)
        given = None if u is None else _numbers(u)
        self._steps.append(_Step(self.inner.state_dict(), dt, given))

    def update(self, y: Data, u: Data | None = None, *, back: int = 0) -> float:
        """Condition on an observation and return its log-density given all others so far, in nats.

        An out-of-sequence measurement completes the observation of its step where that is
        missing; where both hold a component, it counts as a further, independent one.

        Args:
            y: `(obs,)`, NaN where missing.
            u: Input of the observation's step, `(input,)`.
            back: To which step it belongs: 0 is the present one, 1 the one before.

        Raises:
            ValueError: the step is not in the buffer, or `y` does not fit.
        """
        if not (isinstance(back, int) and 0 <= back < len(self._steps)):
            raise ValueError(
                f"`back` must be a whole number from 0 to {len(self._steps) - 1}, as far as the "
                f"buffer goes, got {back}. Start with a larger `buffer`, or drop the observation."
            )
        step, before = self._steps[-1 - back], self.inner.log_likelihood
        observation, given = _numbers(y, "y").reshape(-1), None if u is None else _numbers(u)
        if back == 0 and not step.observations:
            gained = self.inner.update(observation, given)
            step.observations.append((observation, given))
            return gained
        present, old = self.inner.state_dict(), list(step.observations)
        step.observations = _taken_in(old, observation, given)
        try:
            self._replay(back)
        except ValueError:
            step.observations = old
            self.inner.load_state_dict(present)
            raise
        return self.inner.log_likelihood - before

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state and the buffer as flat tensors, to go on later."""
        out = {f"now.{name}": value for name, value in self.inner.state_dict().items()}
        out["steps"] = torch.tensor(len(self._steps))
        for i, step in enumerate(self._steps):
            out |= {f"{i}.state.{name}": value for name, value in step.state.items()}
            if step.dt is not None:
                out[f"{i}.dt"] = torch.tensor(step.dt, dtype=torch.float64)
            if step.u is not None:
                out[f"{i}.u"] = step.u
            for j, (y, u) in enumerate(step.observations):
                out[f"{i}.reading.{j}"] = y
                if u is not None:
                    out[f"{i}.reading.{j}.u"] = u
        return out

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned; steps beyond this buffer's size are dropped.

        Raises:
            ValueError: The state has no buffer, or its sizes are those of another model.
        """
        if "steps" not in state:
            raise ValueError(
                "`state` has no buffer: it was saved by a filter without one. Load it into "
                "`deepssm.online(model)`."
            )
        self.inner.load_state_dict(_below(state, "now."))
        steps = (_read_step(_below(state, f"{i}.")) for i in range(int(state["steps"])))
        self._steps = deque(steps, maxlen=self.size + 1)

    def _replay(self, back: int) -> None:
        steps = list(self._steps)[len(self._steps) - 1 - back :]
        self.inner.load_state_dict(steps[0].state)
        for i, step in enumerate(steps):
            if i > 0:
                self.inner.predict(step.dt, step.u)
                step.state = self.inner.state_dict()
            for y, u in step.observations:
                self.inner.update(y, step.u if u is None else u)


def _taken_in(
    observations: list[tuple[Tensor, Tensor | None]], arrived: Tensor, u: Tensor | None
) -> list[tuple[Tensor, Tensor | None]]:
    """Complete the first observation that has room for what arrived, else append it."""
    for i, (y, own) in enumerate(observations):
        if y.shape == arrived.shape and bool((y.isnan() | arrived.isnan()).all()):
            merged = (torch.where(y.isnan(), arrived, y), u if own is None else own)
            return [*observations[:i], merged, *observations[i + 1 :]]
    return [*observations, (arrived, u)]


def _numbers(values: Data, name: str = "u") -> Tensor:
    return read_numbers(name, values).to(torch.float64).detach().clone()


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _read_step(saved: dict[str, Tensor]) -> _Step:
    count = sum(name.startswith("reading.") and name.count(".") == 1 for name in saved)
    observations = [(saved[f"reading.{j}"], saved.get(f"reading.{j}.u")) for j in range(count)]
    dt = float(saved["dt"]) if "dt" in saved else None
    return _Step(_below(saved, "state."), dt, saved.get("u"), observations)
