"""Training by variational bounds, and inference with what was trained."""
