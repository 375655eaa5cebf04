"""Scores, consistency checks, baselines and calibration."""

import sys
import warnings
from typing import Any

from .backtests import Backtest as Backtest
from .backtests import Forecaster as Forecaster
from .backtests import Grouping as Grouping
from .backtests import Refit as Refit
from .baselines import SeasonalNaive as SeasonalNaive
from .baselines import persistence as persistence
from .baselines import seasonal_naive as seasonal_naive
from .calibration import Reliability as Reliability
from .calibration import calibration_warnings as calibration_warnings
from .calibration import recalibration_factor as recalibration_factor
from .calibration import reliability as reliability
from .calibration import rescale as rescale
from .consistency import Consistency as Consistency
from .consistency import Innovations as Innovations
from .consistency import Squared as Squared
from .consistency import consistency as consistency
from .consistency import innovations as innovations
from .consistency import nees as nees
from .consistency import nis as nis
from .consistency import normalized_squared_error as normalized_squared_error
from .leave_one_out import LeaveOneOut as LeaveOneOut
from .leave_one_out import leave_one_out as leave_one_out
from .pooling import pool as pool
from .scores import covered as covered
from .scores import crps as crps
from .scores import crps_gaussian as crps_gaussian
from .scores import crps_samples as crps_samples
from .scores import energy_score as energy_score
from .scores import interval_score as interval_score
from .scores import log_score as log_score
from .scores import naive_error as naive_error
from .scores import pit as pit
from .scores import pit_gaussian as pit_gaussian
from .scores import pit_samples as pit_samples
from .scores import scaled_error as scaled_error
from .scores import standard_deviation as standard_deviation
from .scores import weighted_interval_score as weighted_interval_score


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "backtest":
        warnings.warn(
            "`deepssm.evaluation.backtest` is now `deepssm.backtest`; the old name goes with the "
            "next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return sys.modules[__name__.partition(".")[0]].backtest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
