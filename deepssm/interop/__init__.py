"""Bridges to ArviZ, filterpy and data frames."""

from ..io.frames import data_warnings as data_warnings
from ..io.frames import from_frame as from_frame
from ..io.frames import future_index as future_index
from ..io.frames import is_frame as is_frame
from ..io.frames import time_steps as time_steps
from .arviz import loo as loo
from .arviz import to_arviz as to_arviz
from .datatree import to_datatree as to_datatree
from .draws import Draws as Draws
from .filterpy import from_filterpy as from_filterpy
from .filterpy import from_measurements as from_measurements
from .filterpy import to_filterpy as to_filterpy
