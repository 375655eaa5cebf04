"""A fitted model together with its data: the object that `fit` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from ..core.methods import InferenceMethod, Learned, averages_parameters
from ..core.model import Series, StateSpaceModel
from ..core.results import Disturbances, Filtered, Forecast, Imputed, Simulated, Smoothed
from .arguments import positive, require_draws, smoothed
from .forecasting import Ahead, future_labels
from .randomness import drawing_from
from .validation import Data, Labels, as_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure


class _FitFields(NamedTuple):
    model: StateSpaceModel
    learned: Learned
    series: Series


class Fit(_FitFields):
    """A fitted model with its data: the verbs without their first arguments.

    Attributes:
        model: The fitted model, a copy of the one given to `deepssm.fit`, so that what happens to
            that one later leaves this fit as it is.
        learned: Objective, history, standard errors, diagnostics and the inference method.
        series: The checked data.
        labels: Row labels and column names of the data.
        lengths: Valid steps of each series, `(*batch,)`, where they were given.
        inputs: Column names of the inputs, where they were a frame.
    """

    labels: Labels = Labels()
    lengths: Data | None = None
    inputs: tuple[str, ...] | None = None

    def labelled(
        self,
        labels: Labels,
        lengths: Data | None = None,
        inputs: tuple[str, ...] | None = None,
    ) -> Fit:
        """Attach the labels of the user's frames, and the lengths of padded series."""
        self.labels, self.lengths, self.inputs = labels, lengths, inputs
        return self

    @property
    def index(self) -> pd.Index | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Row labels of the data."""
        return self.labels.index

    @property
    def names(self) -> tuple[str, ...] | None:
        """Column names of the data."""
        return self.labels.names

    @property
    def method(self) -> InferenceMethod:
        """How states are inferred from now on."""
        return self.learned.method

    def filter(self, *, generator: torch.Generator | None = None) -> Filtered:
        """Filter the training data; see `deepssm.filter`."""
        result = self._drawing_from(generator).filter(self.model, self.series)
        return result.labelled(self.index, self.model.state_names)

    def smooth(
        self, *, lag: int | None = None, generator: torch.Generator | None = None
    ) -> Smoothed:
        """Smooth the training data; see `deepssm.smooth`."""
        result = smoothed(self._drawing_from(generator), self.model, self.series, lag)
        return result.labelled(self.index, self.model.state_names)

    def disturbances(self) -> Disturbances:
        """Estimate the noise of each step of the training data; see `deepssm.disturbances`."""
        from ..inference.kalman.disturbances import smoothed_disturbances

        return smoothed_disturbances(self.model, self.series).labelled(self.index, self.names)

    def log_likelihood(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Log-likelihood of each step of the training data, `(*batch, time)`, as numbers.

        `deepssm.log_likelihood(fit.model, y)` can be differentiated.
        """
        steps = self._drawing_from(generator).log_likelihood(self.model, self.series)
        return steps.detach()

    def sample_posterior(
        self, num_samples: int = 100, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw state paths given the training data; see `deepssm.sample_posterior`."""
        count = positive("num_samples", num_samples)
        require_draws(self.model, self.series, self.series.time, count, f"num_samples={count}")
        drawn = self.method.sample_posterior(self.model, self.series, count, generator)
        return drawn.detach()

    def forecast(
        self,
        horizon: int,
        *,
        u_future: Data | None = None,
        dt_future: Data | float | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the steps after the training data; see `deepssm.forecast`."""
        horizon = positive("horizon", horizon)
        ahead = Ahead(horizon, u_future, dt_future, num_samples, generator, self.labels)
        result = ahead.forecast(self.model, self.method, self.series, self.lengths)
        return result.labelled(future_labels(self.labels, horizon, self.lengths), self.names)

    def impute(self, num_samples: int = 200, generator: torch.Generator | None = None) -> Imputed:
        """Fill the gaps of the training data; see `deepssm.impute`."""
        from .imputation import imputed

        found = imputed(self.model, self.series, self.method, num_samples, generator)
        return found.labelled(self.index, self.names)

    def counterfactual(
        self,
        u_instead: Data,
        num_samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Simulated:
        """Ask what the training data would be under other inputs; see `deepssm.counterfactual`."""
        from .counterfactual import run_again

        count = positive("num_samples", num_samples)
        known = self.labels.inputs
        other = as_rows(self.model, "u_instead", u_instead, self.index, known=known)[0]
        return run_again(self.model, self.series, cast(Data, other), self.method, count, generator)

    def residuals(self) -> Tensor:
        """Standardised one-step errors, `(*batch, time, obs)`; see `evaluation.residuals`."""
        from ..evaluation.residuals import residuals

        return residuals(self.model, self.series, self.method)

    def plot_residuals(self, component: int = 0, *, lags: int = 20) -> Figure:
        """Draw the standardised residuals of one observed component of a single series."""
        from ..report.plots_residuals import plot_residuals

        return plot_residuals(self.residuals()[..., component], lags, index=self.index)

    def plot_disturbances(
        self, threshold: float = 3.0, *, columns: Sequence[str] | None = None
    ) -> Figure:
        """Draw auxiliary residuals: outliers and breaks; see `deepssm.disturbances`."""
        from ..report.plots_residuals import plot_disturbances

        return plot_disturbances(self.disturbances(), threshold, columns=columns)

    def summary(self) -> str:
        """Return a table of parameters, standard errors and diagnostics as text."""
        from .summary import summary_text

        return summary_text(self.model, self.learned, self.series, self.labels, self.inputs)

    def __repr__(self) -> str:
        """Say in a line what was fitted to what; `summary()` has the parameters."""
        shape = " x ".join(str(size) for size in self.series.y.shape)
        known = "" if averages_parameters(self.method) else ", parameters taken as known"
        return (
            f"Fit({type(self.model).__name__} by {type(self.method).__name__}, y: {shape}, "
            f"objective: {self.learned.objective:.4f}{known})"
        )

    def _drawing_from(self, generator: torch.Generator | None) -> InferenceMethod:
        return drawing_from(generator, self.method)
