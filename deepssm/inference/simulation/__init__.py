"""Draws from a model: simulation, and runs ahead from given states."""
