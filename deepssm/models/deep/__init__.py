"""Neural transitions and emissions, and the deep Markov model."""
