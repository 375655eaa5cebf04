"""What the world is: state space models, classical and neural."""

from .deep_markov import DeepMarkov as DeepMarkov
from .emissions import BernoulliEmission as BernoulliEmission
from .emissions import GaussianEmission as GaussianEmission
from .linear_gaussian import LinearGaussian as LinearGaussian
from .nonlinear import NonlinearGaussian as NonlinearGaussian
from .transitions import GatedTransition as GatedTransition
from .transitions import LinearTransition as LinearTransition
from .transitions import MLPTransition as MLPTransition
from .transitions import ResidualTransition as ResidualTransition
