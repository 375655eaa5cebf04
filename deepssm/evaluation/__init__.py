"""Scores, consistency checks, baselines and backtests."""
