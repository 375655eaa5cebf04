"""Embedded data sets, loaders and generators."""

from .air_quality import beijing_air_quality as beijing_air_quality
from .embedded import co2 as co2
from .embedded import nile as nile
from .polyphonic import Padded as Padded
from .polyphonic import Polyphonic as Polyphonic
from .polyphonic import pad as pad
from .polyphonic import polyphonic as polyphonic
from .simulators import Experiment as Experiment
from .simulators import lorenz63 as lorenz63
from .simulators import lorenz63_drift as lorenz63_drift
from .simulators import pendulum as pendulum
from .simulators import pendulum_drift as pendulum_drift
from .simulators import radar as radar
from .simulators import rk4 as rk4
from .simulators import van_der_pol as van_der_pol
from .simulators import van_der_pol_drift as van_der_pol_drift
