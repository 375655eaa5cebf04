"""Compiled loops of the exact filter, one series at a time."""
