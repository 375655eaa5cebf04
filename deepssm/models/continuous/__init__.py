"""Models in continuous time: tracking and stationary processes."""
