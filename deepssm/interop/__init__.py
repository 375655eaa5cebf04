"""Bridges to ArviZ, filterpy and data frames."""

from .arviz import loo as loo
from .arviz import to_arviz as to_arviz
from .datatree import to_datatree as to_datatree
from .draws import Draws as Draws
from .filterpy import from_filterpy as from_filterpy
from .filterpy import from_measurements as from_measurements
from .filterpy import to_filterpy as to_filterpy
from .frames import data_warnings as data_warnings
from .frames import from_frame as from_frame
from .frames import future_index as future_index
from .frames import is_frame as is_frame
from .frames import time_steps as time_steps
