"""What the verbs return: named tuples of tensors, with the labels of the user's frame if any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from .diffuse import Diffuse, image_cov
from .tables import default_names, gaussian_quantile
from .tables import labelled_frame as labelled_frame

if TYPE_CHECKING:
    import pandas as pd


_R = TypeVar("_R", bound="Labelled")
_Trusted = TypeVar("_Trusted", bound="Filtered | Smoothed")


class Labelled:
    """Row and column labels a result inherits from the data; not part of its fields.

    Attributes:
        index: Time labels, or `None`.
        names: Column names of the observations (or of the states), or `None`.
    """

    index: pd.Index | None = None
    names: tuple[str, ...] | None = None

    def labelled(self: _R, index: pd.Index | None, names: tuple[str, ...] | None) -> _R:
        """Attach labels; return the result as numbers, without the graph of their computation.

        Every verb hands its result out through here, so that it can be drawn, copied and pickled.
        A gradient is that of `ds.log_likelihood`, or of a method's own result.
        """
        result = self
        if any(map(_carries_graph, cast(Iterable[object], self))):
            result = type(self)(*map(_without_graph, cast(Iterable[object], self)))
            vars(result).update(vars(self))
        result.index, result.names = index, names
        return result

    def __repr__(self) -> str:
        """Name the fields and their shapes, not their numbers."""
        fields = cast(NamedTuple, self)._asdict().items()
        shapes = [
            f"{name}: {_shape(value)}" for name, value in fields if isinstance(value, Tensor)
        ]
        names = [] if self.names is None else [f"names: {_shortened(self.names)}"]
        return f"{type(self).__name__}({', '.join(shapes + names)})"


class _FilteredFields(NamedTuple):
    mean: Tensor
    cov: Tensor
    predicted_mean: Tensor
    predicted_cov: Tensor
    log_likelihood: Tensor
    ill_conditioned: Tensor


class Filtered(Labelled, _FilteredFields):
    """Filtered `p(z_t | y_{1:t})` and predicted `p(z_t | y_{1:t-1})` marginals.

    Attributes:
        mean: Filtered means, `(*batch, time, state)`.
        cov: Filtered covariances, `(*batch, time, state, state)`; infinite entries are directions
            that a diffuse start leaves open and the data have not fixed yet.
        predicted_mean: Predicted means, `(*batch, time, state)`.
        predicted_cov: Predicted covariances, `(*batch, time, state, state)`.
        log_likelihood: `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`.
        ill_conditioned: `(*batch,)`, true where round-off may have spoilt a result.
        diffuse: Directions of infinite variance of `cov`, or `None`; not a field.
        predicted_diffuse: Those of `predicted_cov`, or `None`; not a field.
        trust: How far a robust method trusted each observation, `(*batch, time, obs)`: 1 in full,
            0 rejected, NaN missing; `None` for other methods; not a field.
    """

    diffuse: Diffuse | None = None
    predicted_diffuse: Diffuse | None = None
    trust: Tensor | None = None

    def predicted_image_cov(self, C: Tensor) -> Tensor:
        """Return the predicted covariance of `C z`, infinite only where `C` loads what is open.

        Args:
            C: `(*batch, time or 1, rows, state)`.

        Returns:
            `(*batch, time, rows, rows)`.
        """
        return image_cov(C, self.predicted_cov, self.predicted_diffuse)

    def to_frame(self, index: pd.Index | None = None) -> pd.DataFrame:
        """Return a frame with columns `<state>_mean` and `<state>_sd`, one row a step."""
        return _moments_frame(self, self.mean, self.cov, index)


class _SmoothedFields(NamedTuple):
    mean: Tensor
    cov: Tensor
    cross_cov: Tensor
    log_likelihood: Tensor
    ill_conditioned: Tensor


class Smoothed(Labelled, _SmoothedFields):
    """Smoothed marginals `p(z_t | y_{1:T})` and their lag-one covariances.

    Attributes:
        mean: `(*batch, time, state)`.
        cov: `(*batch, time, state, state)`.
        cross_cov: `Cov(z_t, z_{t-1} | y_{1:T})`, `(*batch, time, state, state)`; entry 0 is zero.
        log_likelihood: `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`.
        ill_conditioned: `(*batch,)`.
        diffuse: Directions of infinite variance of `cov`, or `None`; not a field.
        trust: How far a robust method trusted each observation, as in `Filtered`; not a field.
    """

    diffuse: Diffuse | None = None
    trust: Tensor | None = None

    def image_cov(self, C: Tensor) -> Tensor:
        """Return the covariance of `C z`, infinite only where `C` loads what is left open.

        Args:
            C: `(*batch, time or 1, rows, state)`.

        Returns:
            `(*batch, time, rows, rows)`.
        """
        return image_cov(C, self.cov, self.diffuse)

    def to_frame(self, index: pd.Index | None = None) -> pd.DataFrame:
        """Return a frame with columns `<state>_mean` and `<state>_sd`, one row a step."""
        return _moments_frame(self, self.mean, self.cov, index)


def trusting(result: _Trusted, trust: Tensor) -> _Trusted:
    """Attach how far observations were trusted and return the same result.

    Args:
        result: Of a robust method.
        trust: `(*batch, time, obs)`.
    """
    result.trust = trust
    return result


class _DisturbancesFields(NamedTuple):
    state: Tensor
    state_cov: Tensor
    state_residual: Tensor
    observation: Tensor
    observation_cov: Tensor
    observation_residual: Tensor


class Disturbances(Labelled, _DisturbancesFields):
    """Smoothed noises `w_t, v_t` given all data, and how unusual each is.

    Auxiliary residuals are smoothed noises over their standard deviations: `N(0, 1)` if the model
    is right, but correlated in time. A large one of the observation is an outlier, one of a level
    a break at the step that arrives. NaN where there is no noise, no data, or
    nothing else to judge it by.

    Attributes:
        state: `E[w_t | y_{1:T}]`, `(*batch, time, state)`; entry 0 is zero: nothing arrives there.
        state_cov: `Var(w_t | y_{1:T})`, `(*batch, time, state, state)`.
        state_residual: Auxiliary residuals of the states, `(*batch, time, state)`.
        observation: `E[v_t | y_{1:T}]`, `(*batch, time, obs)`.
        observation_cov: `Var(v_t | y_{1:T})`, `(*batch, time, obs, obs)`.
        observation_residual: Auxiliary residuals of the observations, `(*batch, time, obs)`.
        state_names: Names of the states, or `None`; not a field.

    Example:
        >>> import deepssm as ds
        >>> model = ds.models.LocalLevel(1469.1, noise_variance=15099.0)
        >>> found = ds.disturbances(model, ds.data.nile()).unusual(3.0)
        >>> [(date.year, name) for date, name in found.index]
        [(1899, 'level'), (1913, 'nile')]

    Source: Harvey & Koopman (1992); Durbin & Koopman (2012), sections 4.5 and 7.5.
    """

    state_names: tuple[str, ...] | None = None

    def to_frame(self, index: pd.Index | None = None) -> pd.DataFrame:
        """Return auxiliary residuals as a frame with a column for each observation and state."""
        residuals = torch.cat([self.observation_residual, self.state_residual], -1)
        columns = {name: residuals[..., i] for i, name in enumerate(self._columns())}
        return labelled_frame(columns, index if index is not None else self.index)

    def unusual(self, threshold: float = 3.0) -> pd.Series:
        """Return the auxiliary residuals beyond `threshold` deviations, largest first.

        Args:
            threshold: In standard deviations; among `n` residuals of a right model about
                `0.0027 n` lie beyond 3.
        """
        residuals: Any = self.to_frame().stack()
        large = residuals[residuals.abs() > threshold].rename("residual")
        return large.sort_values(key=lambda x: -x.abs())

    def _columns(self) -> tuple[str, ...]:
        sizes = self.observation.shape[-1], self.state.shape[-1]
        observed = self.names or default_names("y", sizes[0])
        return (*observed, *(self.state_names or default_names("z", sizes[1])))


class _SimulatedFields(NamedTuple):
    z: Tensor
    y: Tensor


class Simulated(Labelled, _SimulatedFields):
    """States and observations drawn from a model.

    Attributes:
        z: `(*num_samples, *batch, time, state)`.
        y: `(*num_samples, *batch, time, obs)`.
    """


class _ImputedFields(NamedTuple):
    mean: Tensor
    sd: Tensor
    samples: Tensor


class Imputed(Labelled, _ImputedFields):
    """Observations with their gaps filled.

    Attributes:
        mean: The data where seen, else the mean of what was missed, `(*batch, time, obs)`.
        sd: 0 where seen, else the standard deviation of what was missed, `(*batch, time, obs)`;
            infinite where the data leave it open.
        samples: Joint draws, the data where seen, `(num_samples, *batch, time, obs)`.
        gaussian: Whether what was missed is Gaussian with exactly these moments; not a field.
    """

    gaussian: bool = False

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return the central interval that holds what was missed with probability `level`.

        Exact where the distribution is Gaussian. Of draws alone the ends lie at the ranks
        `(n + 1) (1 -+ level) / 2` of all `n`, so that a further draw lies between them with this
        probability. Quantiles of the draws hold less: 0.891 at a level of 0.9 and 200 draws.

        Args:
            level: Probability in (0, 1).

        Raises:
            ValueError: `level` is not strictly between 0 and 1.

        Source: Hyndman & Fan (1996), The American Statistician 50, definition 6.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}.")
        if self.gaussian:
            return (
                gaussian_quantile(self.mean, self.sd, (1 - level) / 2),
                gaussian_quantile(self.mean, self.sd, (1 + level) / 2),
            )
        count = self.samples.shape[0]
        rank = max((count + 1) * (1 - level) / 2 - 1, 0.0) / max(count - 1, 1)
        return torch.quantile(self.samples, rank, 0), torch.quantile(self.samples, 1 - rank, 0)

    def to_frame(self, index: pd.Index | None = None) -> pd.DataFrame:
        """Return a frame with columns `<name>`, filled, and `<name>_sd`, one row a step."""
        names = self.names or default_names("y", self.mean.shape[-1])
        columns: dict[str, Tensor] = {}
        for i, name in enumerate(names):
            columns[name], columns[f"{name}_sd"] = self.mean[..., i], self.sd[..., i]
        return labelled_frame(columns, index if index is not None else self.index)


class _ForecastFields(NamedTuple):
    mean: Tensor
    cov: Tensor
    samples: Tensor | None = None
    state_mean: Tensor | None = None
    state_cov: Tensor | None = None
    state_samples: Tensor | None = None


class Forecast(Labelled, _ForecastFields):
    """Predictive distribution of the next `horizon` observations.

    Exact Gaussian moments where the model is linear, else moments of `samples`.

    Attributes:
        mean: `(*batch, horizon, obs)`, in the units of `y`.
        cov: `(*batch, horizon, obs, obs)`; includes the observation noise.
        samples: Joint draws of the future, `(num_samples, *batch, horizon, obs)`, or `None`.
        state_mean: Mean of the future states, `(*batch, horizon, state)`.
        state_cov: `(*batch, horizon, state, state)`.
        state_samples: `(num_samples, *batch, horizon, state)`, or `None`.
        gaussian: Whether the forecast is Gaussian with exactly these moments, so that quantiles
            and scores come from them and not from draws; not a field.
        parameters_known: Whether parameters were taken as known, so that a fit to few
            observations is surer of the future than it should be; not a field.
    """

    gaussian: bool = False

    parameters_known: bool = True

    def __repr__(self) -> str:
        """Name the fields and their shapes, and what the bands leave out."""
        short = super().__repr__()
        return f"{short[:-1]}, parameters taken as known)" if self.parameters_known else short

    @property
    def state(self) -> Forecast:
        """The forecast of the latent state, without observation noise."""
        if self.state_mean is None or self.state_cov is None:
            raise ValueError("This forecast carries no state: its method forecasts `y` alone.")
        state = Forecast(self.state_mean, self.state_cov, self.state_samples)
        state.gaussian = self.gaussian
        return state.labelled(self.index, None)

    def quantile(self, q: float) -> Tensor:
        """Return the marginal `q`-quantile, `(*batch, horizon, obs)`.

        Args:
            q: Probability level in (0, 1).

        Raises:
            ValueError: `q` is not strictly between 0 and 1.
        """
        if not 0.0 < q < 1.0:
            raise ValueError(f"`q` must lie strictly between 0 and 1, got {q}.")
        if self.samples is not None and not self.gaussian:
            return torch.quantile(self.samples, q, dim=0)
        return gaussian_quantile(self.mean, self.cov.diagonal(dim1=-2, dim2=-1).sqrt(), q)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return the central interval that holds `level` of the predictive mass.

        Args:
            level: Probability in (0, 1), such as 0.9.

        Returns:
            Lower and upper ends, each `(*batch, horizon, obs)`.

        Raises:
            ValueError: `level` is not strictly between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}.")
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def to_frame(self, level: float = 0.9, index: pd.Index | None = None) -> pd.DataFrame:
        """Return a frame with mean, sd and interval ends of each observed column."""
        columns: dict[str, Tensor] = {}
        names = self.names or default_names("y", self.mean.shape[-1])
        lower, upper = self.interval(level)
        sd = self.cov.diagonal(dim1=-2, dim2=-1).sqrt()
        for i, name in enumerate(names):
            columns[f"{name}_mean"], columns[f"{name}_sd"] = self.mean[..., i], sd[..., i]
            columns[f"{name}_lower"], columns[f"{name}_upper"] = lower[..., i], upper[..., i]
        return labelled_frame(columns, index if index is not None else self.index)


def _carries_graph(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _without_graph(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


def _shape(value: Tensor) -> str:
    return " x ".join(str(size) for size in value.shape) or f"{value.item():g}"


def _shortened(names: tuple[str, ...], most: int = 4) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)})"


def _moments_frame(result: Any, mean: Tensor, cov: Tensor, index: pd.Index | None) -> pd.DataFrame:  # noqa: ANN401
    names = result.names or default_names("z", mean.shape[-1])
    sd = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    columns: dict[str, Tensor] = {}
    for i, name in enumerate(names):
        columns[f"{name}_mean"], columns[f"{name}_sd"] = mean[..., i], sd[..., i]
    return labelled_frame(columns, index if index is not None else result.index)
