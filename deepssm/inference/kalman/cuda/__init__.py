"""The exact filter by one CUDA thread a series."""
