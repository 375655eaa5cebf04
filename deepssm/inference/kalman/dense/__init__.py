"""The exact filter and smoother of larger states, on LAPACK."""
