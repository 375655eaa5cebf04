"""Plots and the self-contained HTML report."""

from .plots import plot_components as plot_components
from .plots import plot_forecast as plot_forecast
from .plots import plot_states as plot_states
from .plots_checks import plot_innovations as plot_innovations
from .plots_checks import plot_pit as plot_pit
from .plots_checks import plot_reliability as plot_reliability
from .plots_checks import plot_training as plot_training
