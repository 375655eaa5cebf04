"""The square-root Kalman filter one step at a time, by the compiled steps of the batch filter."""

from __future__ import annotations

from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from ...core.abilities import LinearGaussianModel, is_linear_gaussian
from ...core.gaussian import psd_factor
from ...core.model import (
    Data,
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from ...core.results import Filtered
from ...io.arrays import read_numbers, read_step, read_vector
from ..online.state import as_numbers, require_state
from .cpu.problem import Pass, Problem, allocate, prepare, transition_arrays
from .diffuse import diffuse_moments, posterior_mix
from .robust import WeighsObservations, judged, weighted
from .sequential import filtered

Moves: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
# Parameters of this many different time steps are cached.
_MOST_STEPS = 256


class OnlineKalman:
    """A running Kalman filter over one series; see `OnlineFilter`.

    Parameters are read from the model when it is made; call `refresh` after changing them.

    Args:
        model: A linear-Gaussian model without a batch of parameters.
        robust: What to do about outliers, or nothing; see `Kalman`.
    """

    def __init__(self, model: StateSpaceModel, robust: WeighsObservations | None = None) -> None:
        from .cpu.scalar.filter import forward_space, predict_once, update_once

        self._predict, self._update = predict_once, update_once
        self._model, self._robust = model, robust
        self._trust = torch.full((model.obs_dim,), torch.nan, dtype=model.dtype)
        self._like = torch.zeros(2, model.obs_dim, dtype=model.dtype)
        self.log_likelihood = 0.0
        self._predicted = True
        self._input: Data | None = None
        self.refresh()
        self._out: Pass = allocate(self._problem.sizes, 1)
        n, p, k, _ = self._problem.sizes[2:]
        self._space = forward_space(n, p, k, n)
        self._out.info[:] = 0.0
        mean, factor = self._problem.start
        self._out.a[0, 0], self._out.L[0, 0] = mean[0], factor[0]
        self._out.m[0, 0], self._out.F[0, 0] = mean[0], factor[0]

    def refresh(self) -> None:
        """Read the model's parameters again."""
        # Start and emission need no time step; a model in continuous time may have none to offer.
        self._problem = self._read(0.0, None)
        self._steps: dict[float | None, Moves] = {}

    def predict(self, dt: float | None = None, u: Data | None = None) -> None:
        """Move the state one step.

        Args:
            dt: Time since the last step, for models in continuous time.
            u: Input of the arriving step, `(input,)`.
        """
        dt = None if dt is None else read_step("dt", dt)
        self._input = u
        moves = self._moves(dt) if u is None else self._transition(dt, u)
        self._predict((*moves, *self._problem.params[3:]), tuple(self._out), self._space)
        self._predicted = True

    def update(self, y: Data, u: Data | None = None) -> float:
        """Condition on one observation and return its log-density in nats.

        Args:
            y: `(obs,)`, NaN where missing.
            u: Input of this step, `(input,)`, which reaches the emission; by default that of the
                last `predict`, or zeros at the first step.

        Raises:
            ValueError: `y` has the wrong size or is infinite.
        """
        values = read_vector("y", y)
        if values.size != self._model.obs_dim or np.isinf(values).any():
            raise ValueError(
                f"`y` must hold {self._model.obs_dim} finite number(s) or NaN, got {values}."
            )
        u = self._input if u is None else u
        problem = self._problem if u is None else self._read(0.0, u)
        params, values, extra = self._trusted(problem.params, values)
        ll = self._update(params, values, tuple(self._out), self._space) + extra
        self.log_likelihood += ll
        self._predicted = False
        return ll

    def filter(
        self, y: Tensor, u: Tensor | None = None, dt: Tensor | float | None = None
    ) -> Filtered:
        """Filter the next steps at once, as fast as a whole series, and stand at the last one.

        A long series filtered block by block equals the series filtered at once, in the memory
        of a block. Entry 0 of `u` and `dt` drives the step from the last block to this one.

        Args:
            y: `(time, obs)`, NaN where missing; the model must be constant in time.
            u: `(time, input)`.
            dt: `(time,)`, or one number for all steps.

        Raises:
            ValueError: The data do not fit the model.
        """
        return filter_block(self, self._model, y, u, dt)

    @property
    def mean(self) -> Tensor:
        """Mean of the current state, `(state,)`."""
        return self._moments()[0]

    @property
    def cov(self) -> Tensor:
        """Covariance of the current state, `(state, state)`."""
        return self._moments()[1]

    @property
    def robust(self) -> bool:
        """Whether observations are doubted, so that each step decides about the next."""
        return self._robust is not None

    @property
    def trust(self) -> Tensor:
        """How far the last observation was trusted, `(obs,)`: 0 rejected, 1 in full, else NaN."""
        return self._trust

    @property
    def predicted(self) -> bool:
        """Whether the state stands before the observation of its step, rather than after it."""
        return self._predicted

    def jump(self, mean: Tensor, cov: Tensor, log_likelihood: float) -> None:
        """Put the state at the filtered moments of a later step.

        Args:
            mean: Filtered mean, `(state,)`.
            cov: Filtered covariance, `(state, state)`.
            log_likelihood: Of the observations in between, added to the sum.
        """
        out = self._out
        for array in (out.m, out.F, out.info):
            array[0, 0] = 0.0
        out.m[0, 0, :, 0] = mean.double().numpy()
        out.F[0, 0] = psd_factor(cov.double(), "cov").numpy()
        # The diffuse coefficients are known by now: they move nothing and have spread 1.
        out.info[0, 0, :, : self._problem.sizes.k] = np.eye(self._problem.sizes.k)
        out.a[0, 0], out.L[0, 0] = out.m[0, 0], out.F[0, 0]
        self.log_likelihood += log_likelihood
        self._predicted = False

    def state_dict(self) -> dict[str, Tensor]:
        """Return mean, factor and diffuse equations, to go on later."""
        out = self._out
        arrays = {"mean": out.m[0, 0], "factor": out.F[0, 0], "diffuse": out.info[0, 0]}
        state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        state["log_likelihood"] = torch.tensor(self.log_likelihood, dtype=torch.float64)
        return state | {"predicted": torch.tensor(self._predicted)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: The sizes are those of another model.
        """
        targets = {"mean": self._out.m, "factor": self._out.F, "diffuse": self._out.info}
        require_state(state, **{name: target.shape[2:] for name, target in targets.items()})
        for name, target in targets.items():
            target[0, 0] = state[name].numpy()
        self._out.a[0, 0], self._out.L[0, 0] = self._out.m[0, 0], self._out.F[0, 0]
        self.log_likelihood, self._input = float(state["log_likelihood"]), None
        self._predicted = bool(state["predicted"])

    def _trusted(
        self, params: tuple[np.ndarray, ...], y: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray, float]:
        """Return a step as far as it is trusted, and what its score lacks."""
        weight, seen, extra = np.ones(len(y)), ~np.isnan(y), 0.0
        if self._robust is not None:
            last = tuple(x[0, -1] for x in params[3:])
            weight, extra = judged(self._out, last, y, self._robust)
            y, R = weighted(y, params[5][:, -1:], weight)
            params = (*params[:5], R)
        self._trust = torch.from_numpy(np.where(seen, np.minimum(weight, 1.0), np.nan))
        return params, y, extra

    def _moves(self, dt: float | None) -> Moves:
        """Transition of a step of length `dt`, read once for each length."""
        if dt not in self._steps:
            if len(self._steps) >= _MOST_STEPS:
                self._steps.clear()
            self._steps[dt] = self._transition(dt, None)
        return self._steps[dt]

    def _transition(self, dt: float | None, u: Data | None) -> Moves:
        A, b, Q = self._parameters(dt, u).transition
        last = LinearConditional(A[..., -1:, :, :], b[..., -1:, :], Q[..., -1:, :, :])
        return transition_arrays(last, torch.Size())

    def _read(self, dt: float | None, u: Data | None) -> Problem:
        return prepare(self._parameters(dt, u), self._like)

    @torch.no_grad()
    def _parameters(self, dt: float | None, u: Data | None) -> LinearParameters:
        """Parameters of one step: entry 1 of a series of two, since entry 0 has no transition."""
        model, size = self._model, self._model.input_dim
        if not is_linear_gaussian(model):
            raise ValueError(
                f"`Kalman` needs a linear-Gaussian model, got {type(model).__name__}."
            )
        step = None if dt is None else self._like.new_full((2,), float(dt))
        inputs = self._like.new_zeros(2, size) if size else None
        if inputs is not None and u is not None:
            inputs = as_numbers(u, inputs).expand(2, size)
        found = model.linear_parameters(inputs, step)
        if max(x.shape[-3] for part in found[1:] for x in (part.matrix, part.cov)) > 2:
            raise ValueError(
                "A running filter does not know which step it is at, so the model's matrices must "
                "be the same at all times or depend on `dt` alone. Filter the whole series with "
                "`deepssm.filter`."
            )
        return found

    def _moments(self) -> tuple[Tensor, Tensor]:
        columns, factor, info = (
            torch.from_numpy(x[0, 0].copy()) for x in (self._out.m, self._out.F, self._out.info)
        )
        mean, cov = columns[:, 0], factor @ factor.mT
        if self._problem.sizes.k:
            mean, cov = diffuse_moments(columns, cov, *posterior_mix(info))
        return mean.to(self._model.dtype), cov.to(self._model.dtype)


@torch.no_grad()
def filter_block(
    running: OnlineKalman,
    model: StateSpaceModel,
    y: Tensor,
    u: Tensor | None,
    dt: Tensor | float | None,
) -> Filtered:
    """Filter `y` from where `running` stands and leave it at the last step.

    Args:
        running: A running filter.
        model: Its model.
        y: `(time, obs)`, NaN where missing.
        u: `(time, input)`.
        dt: `(time,)` or a number.

    Raises:
        ValueError: `y` is no single series.
    """
    series = _series(model, y, u, dt)
    parts, done = [], 0
    while done < series.time and (
        running.robust or not (parts and bool(running.cov.isfinite().all()))
    ):
        parts.append(_one(running, series, done))
        done += 1
    if done < series.time:
        parts.append(_rest(running, model, series, done))
    *fields, flags = zip(*(parts or [_empty(running)]), strict=True)
    tensors = [torch.cat(x).to(model.dtype) for x in fields]
    result = Filtered._make([*tensors, torch.stack(flags).any()])
    return result.labelled(None, model.state_names)


def _series(
    model: StateSpaceModel, y: Tensor, u: Tensor | None, dt: Tensor | float | None
) -> Series:
    y = read_numbers("y", y).to("cpu", torch.float64)
    if y.ndim != 2 or y.shape[-1] != model.obs_dim or bool(y.isinf().any()):
        raise ValueError(
            f"`y` must be one series of finite numbers or NaN, `(time, {model.obs_dim})`, got "
            f"{tuple(y.shape)}."
        )
    steps = None if dt is None else read_numbers("dt", dt).to(y).expand(len(y))
    return Series(y, None if u is None else read_numbers("u", u).to(y), steps)


def _empty(running: OnlineKalman) -> Filtered:
    mean, cov = running.mean[None][:0], running.cov[None][:0]
    return Filtered(mean, cov, mean, cov, mean[:, 0], torch.tensor(False))


def _one(running: OnlineKalman, series: Series, t: int) -> Filtered:
    """Take one step of the running filter."""
    u = None if series.u is None else series.u[t]
    if not running.predicted:
        running.predict(None if series.dt is None else float(series.dt[t]), u)
    before = running.mean, running.cov
    ll = running.update(series.y[t], u)
    moments = (x[None].to(series.y) for x in (running.mean, running.cov, *before))
    return Filtered._make([*moments, series.y.new_tensor([ll]), torch.tensor(False)])


def _rest(running: OnlineKalman, model: StateSpaceModel, series: Series, first: int) -> Filtered:
    """Filter on by the batch filter, started at the step before, which it shall not read."""
    y, u, dt = (None if x is None else x[first - 1 :].clone() for x in series)
    assert y is not None
    y[0] = torch.nan
    start = GaussianInitial(running.mean.double(), running.cov.double())
    linear = cast(LinearGaussianModel, model).linear_parameters(u, dt)
    found = filtered(linear._replace(initial=start), y)
    running.jump(found.mean[-1], found.cov[-1], float(found.log_likelihood.sum()))
    return Filtered._make([*(x[1:] for x in found[:5]), found.ill_conditioned])
