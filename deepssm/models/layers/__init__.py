"""Sequence layers on the linear core, their baselines, stacks and heads."""
