"""Weights on disk without pickle, bit for bit: the public names of `io/checkpoint.py`."""

from .io.checkpoint import Checkpoint as Checkpoint
from .io.checkpoint import load as load
from .io.checkpoint import save as save
from .io.checkpoint import save_tensors as save_tensors
