"""Structural time series: trend, season, cycle, regression."""
