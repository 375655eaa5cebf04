"""Models with discrete states: hidden Markov and switching linear."""
