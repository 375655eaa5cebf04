"""The linear core: structures, discretization and the step, scan, chunk and convolution views."""

from .chunk import chunk as chunk
from .convolution import causal_convolution as causal_convolution
from .convolution import convolve as convolve
from .discretize import Bilinear as Bilinear
from .discretize import Dirac as Dirac
from .discretize import Discretization as Discretization
from .discretize import ZeroOrderHold as ZeroOrderHold
from .discretize import van_loan as van_loan
from .recurrence import Recurrence as Recurrence
from .recurrence import View as View
from .recurrence import loop as loop
from .recurrence import scan as scan
from .riccati import SteadyState as SteadyState
from .riccati import backward_innovations as backward_innovations
from .riccati import innovations as innovations
from .riccati import lyapunov as lyapunov
from .riccati import steady_state as steady_state
from .scan import diagonal_scan as diagonal_scan
from .scan import matrix_scan as matrix_scan
from .structure import Dense as Dense
from .structure import Diagonal as Diagonal
from .structure import Structure as Structure
from .system import LinearSystem as LinearSystem
