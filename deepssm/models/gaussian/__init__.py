"""Linear and nonlinear models with Gaussian noise, by matrices or by functions."""
