"""Bridges to ArviZ, filterpy and data frames."""

from .frames import data_warnings as data_warnings
from .frames import from_frame as from_frame
from .frames import future_index as future_index
from .frames import is_frame as is_frame
from .frames import time_steps as time_steps
