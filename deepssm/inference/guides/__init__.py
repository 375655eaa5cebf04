"""Variational posteriors of state paths, amortised by an encoder."""
