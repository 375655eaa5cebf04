"""Filters that keep a mean and a covariance: extended, unscented, cubature and their kin."""
