"""Compiled recursions of guides and encoders with their own backward passes."""
