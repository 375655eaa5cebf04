"""How to reason about it: filters, smoothers, guides and learners."""

from .amortized import Amortized as Amortized
from .combiners import GateCombiner as GateCombiner
from .combiners import ProductCombiner as ProductCombiner
from .elbo import GuideProgram as GuideProgram
from .elbo import bound as bound
from .elbo import importance_log_likelihood as importance_log_likelihood
from .encoders import RecurrentEncoder as RecurrentEncoder
from .ensemble import Ensemble as Ensemble
from .ensemble import gaspari_cohn as gaspari_cohn
from .gaussian_filters import Cubature as Cubature
from .gaussian_filters import Extended as Extended
from .gaussian_filters import GaussHermite as GaussHermite
from .gaussian_filters import Simplex as Simplex
from .gaussian_filters import Unscented as Unscented
from .guides import SmoothingGuide as SmoothingGuide
from .kalman import Kalman as Kalman
from .posterior_linearization import PosteriorLinearization as PosteriorLinearization
from .robust import Gate as Gate
from .robust import Huber as Huber
from .robust import StudentT as StudentT
from .svi import SVI as SVI
