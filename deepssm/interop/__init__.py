"""Bridges to ArviZ, filterpy and data frames."""
