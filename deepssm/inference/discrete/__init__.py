"""Hidden Markov models and switching linear models."""
