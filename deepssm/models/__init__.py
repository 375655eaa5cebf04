"""What the world is: state space models, classical and neural."""

from .linear_gaussian import LinearGaussian as LinearGaussian
from .nonlinear import NonlinearGaussian as NonlinearGaussian
