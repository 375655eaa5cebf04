"""Filters that take one observation at a time, whatever the method."""
