"""Plots and the self-contained HTML report."""

from .plots import plot_components as plot_components
from .plots import plot_observations as plot_observations
from .plots import plot_readings as plot_readings
from .plots import plot_states as plot_states
from .plots_checks import plot_horizons as plot_horizons
from .plots_checks import plot_innovations as plot_innovations
from .plots_checks import plot_pit as plot_pit
from .plots_checks import plot_reliability as plot_reliability
from .plots_forecasts import plot_forecast as plot_forecast
from .plots_forecasts import plot_methods as plot_methods
from .plots_images import plot_frames as plot_frames
from .plots_learning import plot_divergence as plot_divergence
from .plots_learning import plot_training as plot_training
