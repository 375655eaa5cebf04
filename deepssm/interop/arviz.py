"""ArviZ of either major version, and the two mistakes that its model comparison invites."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from .datatree import Result, to_datatree
from .labelled import Pointwise

if TYPE_CHECKING:
    import xarray as xr


def to_arviz(
    *results: Result,
    num_samples: int = 0,
    pointwise: Pointwise = "one_step",
    generator: torch.Generator | None = None,
) -> Any:  # noqa: ANN401
    """Return results as the installed ArviZ wants them.

    Args:
        results: Fits, filtered, smoothed, forecasts or state draws; see `to_datatree`.
        num_samples: Draws of states and replicated observations for a fit.
        pointwise: Kind of `log_likelihood`; `"leave_one_out"` is the one for `arviz.loo`.
        generator: Source of randomness.

    Returns:
        `arviz.InferenceData` under ArviZ 0.x, `xarray.DataTree` under ArviZ 1.x.

    Raises:
        ModuleNotFoundError: ArviZ is not installed.
    """
    tree = to_datatree(*results, num_samples=num_samples, pointwise=pointwise, generator=generator)
    arviz = import_arviz()
    return arviz.from_datatree(tree) if _is_old(arviz) else tree


def loo(data: xr.DataTree | Any) -> Any:  # noqa: ANN401
    """Run `arviz.loo`, if the data are fit for it.

    Args:
        data: Result of `to_arviz` or `to_datatree` with `pointwise="leave_one_out"` and many
            posterior draws of the parameters.

    Returns:
        ArviZ's `ELPDData`.

    Raises:
        ValueError: there is one parameter value only, or the pointwise numbers are one-step.

    Source:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC.
    """
    group = data["log_likelihood"]
    if group.sizes["chain"] * group.sizes["draw"] < 2:
        raise ValueError(
            "LOO needs posterior draws; this fit has one parameter value. Use its AIC, "
            'fit.learned.diagnostics["aic"], or deepssm.backtest().'
        )
    if group.attrs.get("pointwise") == "one_step":
        raise ValueError(
            "`log_likelihood` holds one-step densities log p(y_t | y_1:t-1), which LOO would "
            'misread. Build the tree with pointwise="leave_one_out".'
        )
    arviz = import_arviz()
    if _is_old(arviz) and not isinstance(data, arviz.InferenceData):
        data = arviz.from_datatree(data)
    return arviz.loo(data)


def elpd(found: Any) -> float:  # noqa: ANN401
    """Return the expected log predictive density of what `loo` found, in nats.

    ArviZ 0.x calls it `elpd_loo`, ArviZ 1.x `elpd`.

    Args:
        found: Result of `loo`.
    """
    return float(found.elpd_loo if _is_old(import_arviz()) else found.elpd)


def import_arviz() -> ModuleType:
    """Import ArviZ without the notice of its next major version.

    Raises:
        ModuleNotFoundError: ArviZ is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import arviz
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "`to_arviz` needs ArviZ: pip install arviz. `to_datatree` does without it.",
                name="arviz",
            ) from error
    return arviz


def _is_old(arviz: ModuleType) -> bool:
    return int(arviz.__version__.split(".")[0]) < 1
