"""How to reason about it: filters, smoothers, guides and learners."""

from .gaussian_filters import Cubature as Cubature
from .gaussian_filters import Extended as Extended
from .gaussian_filters import GaussHermite as GaussHermite
from .gaussian_filters import Simplex as Simplex
from .gaussian_filters import Unscented as Unscented
from .kalman import Kalman as Kalman
