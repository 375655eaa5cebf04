"""Probabilistic deep state space modelling on PyTorch and Pyro.

The names below load on first use (PEP 562), so that `import deepssm` and `deepssm --help` are
light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from . import data as data
    from . import evaluation as evaluation
    from . import inference as inference
    from . import interop as interop
    from . import linear as linear
    from . import models as models
    from . import report as report
    from .api.backtest import backtest as backtest
    from .api.counterfactual import counterfactual as counterfactual
    from .api.fit import Fit as Fit
    from .api.fitting import fit as fit
    from .api.imputation import impute as impute
    from .api.validation import as_series as as_series
    from .api.verbs import disturbances as disturbances
    from .api.verbs import filter as filter
    from .api.verbs import forecast as forecast
    from .api.verbs import log_likelihood as log_likelihood
    from .api.verbs import online as online
    from .api.verbs import sample_posterior as sample_posterior
    from .api.verbs import simulate as simulate
    from .api.verbs import smooth as smooth
    from .cli.saved_runs import load as load
    from .core.model import Series as Series
    from .core.model import StateSpaceModel as StateSpaceModel
    from .core.results import Disturbances as Disturbances
    from .core.results import Filtered as Filtered
    from .core.results import Forecast as Forecast
    from .core.results import Imputed as Imputed
    from .core.results import Simulated as Simulated
    from .core.results import Smoothed as Smoothed
    from .interop.arviz import to_arviz as to_arviz

_FOLDERS = ("data", "evaluation", "inference", "interop", "linear", "models", "report")
_HOMES = {
    ".api.backtest": ("backtest",),
    ".api.counterfactual": ("counterfactual",),
    ".api.fit": ("Fit",),
    ".api.fitting": ("fit",),
    ".api.imputation": ("impute",),
    ".api.validation": ("as_series",),
    ".api.verbs": (
        "disturbances", "filter", "forecast", "log_likelihood", "online",
        "sample_posterior", "simulate", "smooth",
    ),
    ".cli.saved_runs": ("load",),
    ".core.model": ("Series", "StateSpaceModel"),
    ".core.results": ("Disturbances", "Filtered", "Forecast", "Imputed", "Simulated", "Smoothed"),
    ".interop.arviz": ("to_arviz",),
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
