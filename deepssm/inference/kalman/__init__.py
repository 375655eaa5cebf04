"""The exact filter of linear-Gaussian models, its smoother and its gradient."""
