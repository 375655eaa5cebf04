"""Probabilistic deep state space modelling on PyTorch and Pyro.

The names below load on first use (PEP 562), so that `import deepssm` and `deepssm --help` are
light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import data as data
    from . import evaluation as evaluation
    from . import inference as inference
    from . import interop as interop
    from . import linear as linear
    from . import models as models
    from . import report as report
    from .api import disturbances as disturbances
    from .api import filter as filter
    from .api import fit as fit
    from .api import forecast as forecast
    from .api import log_likelihood as log_likelihood
    from .api import online as online
    from .api import sample_posterior as sample_posterior
    from .api import simulate as simulate
    from .api import smooth as smooth
    from .base import Series as Series
    from .base import StateSpaceModel as StateSpaceModel
    from .commands.runs import load as load
    from .evaluation.backtest import backtest as backtest
    from .fitted import Fit as Fit
    from .interop.arviz import to_arviz as to_arviz
    from .questions import counterfactual as counterfactual
    from .questions import impute as impute
    from .results import Disturbances as Disturbances
    from .results import Filtered as Filtered
    from .results import Forecast as Forecast
    from .results import Imputed as Imputed
    from .results import Simulated as Simulated
    from .results import Smoothed as Smoothed

_FOLDERS = ("data", "evaluation", "inference", "interop", "linear", "models", "report")
_HOMES = {
    ".api": (
        "disturbances", "filter", "fit", "forecast", "log_likelihood", "online",
        "sample_posterior", "simulate", "smooth",
    ),
    ".base": ("Series", "StateSpaceModel"),
    ".commands.runs": ("load",),
    ".evaluation.backtest": ("backtest",),
    ".fitted": ("Fit",),
    ".interop.arviz": ("to_arviz",),
    ".questions": ("counterfactual", "impute"),
    ".results": ("Disturbances", "Filtered", "Forecast", "Imputed", "Simulated", "Smoothed"),
}  # fmt: skip


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _FOLDERS:
        return import_module(f".{name}", __name__)
    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = getattr(import_module(home, __name__), name)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*_FOLDERS, *(name for names in _HOMES.values() for name in names)))
