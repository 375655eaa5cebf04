"""Gaussian filters whose model is compiled into their loop; names live in the modules."""
