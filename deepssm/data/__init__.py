"""Embedded data sets, loaders and generators."""
