"""A random model with data of its own, and how the verbs are asked about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.methods import InferenceMethod
from deepssm.core.model import LinearConditional, LinearParameters, StateSpaceModel
from deepssm.core.results import Filtered, Forecast, Imputed, Smoothed
from tests.given import Given


class Sizes(NamedTuple):
    """What hypothesis draws and shrinks."""

    time: int
    state: int
    obs: int
    inputs: int
    batch: tuple[int, ...]
    gaps: float


class Problem(NamedTuple):
    """A model and a question about it.

    Attributes:
        model: In generic position, moderately scaled.
        y: `(*batch, time, obs)`, NaN where missing.
        u: `(*batch, time, input)`, or `None`.
        dt: `(*batch, time)`, or `None`.
        method: How to infer, or `None` for the default.
        seed: For what else a law draws.
    """

    model: StateSpaceModel
    y: Tensor
    u: Tensor | None = None
    dt: Tensor | None = None
    method: InferenceMethod | None = None
    seed: int = 0

    @property
    def time(self) -> int:
        """Number of steps."""
        return self.y.shape[-2]

    @property
    def generator(self) -> torch.Generator:
        """A fresh source of randomness."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def options(self) -> dict[str, Any]:
        """Steps and method, as the verbs take them."""
        return {"dt": self.dt, "method": self.method}

    def filter(self) -> Filtered:
        """Ask `deepssm.filter`."""
        return ds.filter(self.model, self.y, self.u, generator=self.generator, **self.options)

    def smooth(self) -> Smoothed:
        """Ask `deepssm.smooth`."""
        return ds.smooth(self.model, self.y, self.u, generator=self.generator, **self.options)

    def log_likelihood(self) -> Tensor:
        """Ask `deepssm.log_likelihood`."""
        return ds.log_likelihood(
            self.model, self.y, self.u, generator=self.generator, **self.options
        )

    def impute(self, num_samples: int = 8) -> Imputed:
        """Ask `deepssm.impute`."""
        return ds.impute(
            self.model,
            self.y,
            self.u,
            num_samples=num_samples,
            generator=self.generator,
            **self.options,
        )

    def sample_posterior(self, num_samples: int) -> Tensor:
        """Ask `deepssm.sample_posterior`."""
        return ds.sample_posterior(
            self.model,
            self.y,
            self.u,
            num_samples=num_samples,
            generator=self.generator,
            **self.options,
        )

    def forecast(self, horizon: int, num_samples: int | None = None) -> Forecast:
        """Ask `deepssm.forecast` for the last `horizon` steps of this problem."""
        past, future = self.steps(0, self.time - horizon), self.steps(self.time - horizon)
        return ds.forecast(
            self.model,
            past.y,
            horizon,
            past.u,
            u_future=future.u,
            dt_future=future.dt,
            num_samples=num_samples,
            generator=self.generator,
            **past.options,
        )

    def steps(self, first: int, stop: int | None = None) -> Problem:
        """Cut a piece in time out of the data."""
        u = None if self.u is None else self.u[..., first:stop, :]
        dt = None if self.dt is None else self.dt[..., first:stop]
        model = self.model
        if isinstance(model, Given):
            model = Given(_cut(model.given, first, stop))
        return self._replace(model=model, y=self.y[..., first:stop, :], u=u, dt=dt)

    def series(self, index: tuple[int, ...]) -> Problem:
        """Take one series out of the batch."""
        u = None if self.u is None else self.u[index]
        dt = None if self.dt is None else self.dt[index]
        return self._replace(y=self.y[index], u=u, dt=dt)

    def missing(self, *steps: int) -> Problem:
        """Forget whole steps."""
        y = self.y.clone()
        y[..., list(steps), :] = torch.nan
        return self._replace(y=y)


class Family(NamedTuple):
    """Models of one kind.

    Attributes:
        name: For the name of a test.
        build: Builds a problem of given sizes from a seed.
        longest: Number of steps up to which problems are drawn.
    """

    name: str
    build: Callable[[Sizes, int], Problem]
    longest: int = 8

    def draw(self, sizes: Sizes, seed: int) -> Problem:
        """Return a problem of given sizes."""
        return self.build(sizes, seed)


def _cut(parameters: LinearParameters, first: int, stop: int | None) -> LinearParameters:
    """Take the steps of matrices that differ from step to step."""
    start, transition, emission = parameters
    return LinearParameters(
        start,
        LinearConditional(*(x[first:stop] for x in transition)),
        LinearConditional(*(x[first:stop] for x in emission)),
    )


def with_gaps(y: Tensor, rate: float, g: torch.Generator) -> Tensor:
    """Forget single components, and whole steps as often again."""
    lost = torch.rand(y.shape, generator=g, dtype=torch.float64) < rate
    lost |= torch.rand(y.shape[:-1], generator=g, dtype=torch.float64)[..., None] < rate / 2
    return torch.where(lost, torch.nan, y)
