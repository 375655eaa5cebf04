"""Probabilistic deep state space modelling on PyTorch and Pyro."""

__version__ = "0.1.0"
