"""The door for methods of the user's own: what they return is looked at before it is passed on."""

from __future__ import annotations

from torch import Tensor

from ..core.model import Series, StateSpaceModel
from ..core.results import Filtered, Forecast, Smoothed


def require_filtered(
    found: object, method: object, model: StateSpaceModel, series: Series
) -> None:
    """Refuse what is no `Filtered` of this model and series.

    Args:
        found: What `filter` returned.
        method: Whose it is.
        model: The model.
        series: The data.

    Raises:
        ValueError: It is another type, or a field has another shape.
    """
    _require_type(found, Filtered, method, "filter")
    assert isinstance(found, Filtered)
    t, n = series.time, model.state_dim
    fields = (
        ("mean", found.mean, (t, n)), ("cov", found.cov, (t, n, n)),
        ("predicted_mean", found.predicted_mean, (t, n)),
        ("predicted_cov", found.predicted_cov, (t, n, n)),
        ("log_likelihood", found.log_likelihood, (t,)),
        ("ill_conditioned", found.ill_conditioned, ()),
    )  # fmt: skip
    for name, value, ending in fields:
        _require_shape(value, f"filter(...).{name}", ending, method, series)


def require_smoothed(
    found: object, method: object, model: StateSpaceModel, series: Series
) -> None:
    """Refuse what is no `Smoothed` of this model and series; see `require_filtered`."""
    _require_type(found, Smoothed, method, "smooth")
    assert isinstance(found, Smoothed)
    t, n = series.time, model.state_dim
    fields = (
        ("mean", found.mean, (t, n)), ("cov", found.cov, (t, n, n)),
        ("cross_cov", found.cross_cov, (t, n, n)), ("log_likelihood", found.log_likelihood, (t,)),
    )  # fmt: skip
    for name, value, ending in fields:
        _require_shape(value, f"smooth(...).{name}", ending, method, series)


def require_paths(
    found: object, method: object, model: StateSpaceModel, series: Series, count: int
) -> None:
    """Refuse what are not so many paths of this model and series; see `require_filtered`."""
    ending = (series.time, model.state_dim)
    _require_shape(found, "sample_posterior(...)", ending, method, series, (count,))


def require_scores(found: object, method: object, series: Series) -> None:
    """Refuse what is no log-likelihood by step; see `require_filtered`."""
    _require_shape(found, "log_likelihood(...)", (series.time,), method, series)


def require_forecast(
    found: object, method: object, model: StateSpaceModel, series: Series, horizon: int
) -> None:
    """Refuse what is no `Forecast` of so many steps; see `require_filtered`."""
    _require_type(found, Forecast, method, "forecast")
    assert isinstance(found, Forecast)
    p = model.obs_dim
    _require_shape(found.mean, "forecast(...).mean", (horizon, p), method, series)
    _require_shape(found.cov, "forecast(...).cov", (horizon, p, p), method, series)


def _require_type(found: object, wanted: type, method: object, verb: str) -> None:
    if isinstance(found, wanted):
        return
    raise ValueError(
        f"`{type(method).__name__}.{verb}` must return a `deepssm.core.results."
        f"{wanted.__name__}`, got {type(found).__name__}: build one of its fields, "
        f"`{wanted.__name__}(mean=..., ...)`."
    )


def _require_shape(
    value: object,
    name: str,
    ending: tuple[int, ...],
    method: object,
    series: Series,
    lead: tuple[int, ...] = (),
) -> None:
    """Check the last axes, and the number of those before; parameters may have a wider batch."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"`{type(method).__name__}.{name}` must be a tensor, got {type(value).__name__}."
        )
    shape, batch = value.shape, series.batch_shape
    right = shape[len(shape) - len(ending) :] == ending and shape[: len(lead)] == lead
    if not right or len(shape) < len(lead) + len(batch) + len(ending):
        raise ValueError(
            f"`{type(method).__name__}.{name}` must have shape {(*lead, *batch, *ending)}, "
            f"`(*batch, ...)` of the series, got {tuple(shape)}."
        )
