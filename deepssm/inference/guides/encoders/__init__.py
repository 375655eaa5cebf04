"""Networks that read observations and inputs for a guide."""
