"""Particle filters, ensembles and Rao-Blackwellised particles."""
