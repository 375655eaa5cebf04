"""A running filter of a model that reads its own last observation: it remembers it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.methods import OnlineFilter
from ...core.model import Data, StateSpaceModel
from .state import as_numbers
from .wrapping import Around


class RememberingFilter(Around):
    """Another running filter whose inputs get the last observation put behind them.

    Args:
        inner: A running filter at its start.
        model: A model that reads its past.
    """

    def __init__(self, inner: OnlineFilter, model: StateSpaceModel) -> None:
        super().__init__(inner)
        self.model = model
        self._before = torch.zeros(2 * model.obs_dim, dtype=model.dtype, device=model.device)
        self._now = self._before.clone()
        self._input: Data | None = None

    def predict(self, dt: float | None = None, u: Data | None = None) -> None:
        """Move the state one step; `dt` and `u`, `(input,)`, are those of the arriving step."""
        self._before, self._now = self._now, torch.zeros_like(self._now)
        self._input = u
        self.inner.predict(dt, self._joined(u))

    def update(self, y: Data, u: Data | None = None) -> float:
        """Condition on one observation, `(obs,)`, NaN where missing; return its log-density.

        Without `u` the input is that of the last `predict`, or zeros at the first step.
        """
        gained = self.inner.update(y, self._joined(self._input if u is None else u))
        observation = as_numbers(y, self._now, "y").reshape(-1)
        seen = ~torch.isnan(observation)
        old, marks = self._now.chunk(2)
        known = seen.to(marks.dtype).maximum(marks)
        self._now = torch.cat([torch.where(seen, observation, old), known])
        return gained

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state and the last observations, to go on later."""
        own = {"reading_before": self._before.clone(), "reading_now": self._now.clone()}
        return self.inner.state_dict() | own

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        rest = dict(state)
        self._before, self._now = (
            rest.pop(name).to(self._now, copy=True) for name in ("reading_before", "reading_now")
        )
        self._input = None
        self.inner.load_state_dict(rest)

    def _joined(self, u: Data | None) -> Tensor:
        own = self._before.new_zeros(self.model.input_dim)
        if u is not None:
            own = as_numbers(u, own).reshape(-1)
        return torch.cat([own, self._before])
