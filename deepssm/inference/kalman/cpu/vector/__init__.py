"""Compiled loops of the exact filter, several series in SIMD vectors."""
