"""filterpy's nonlinear filters as a model and the method that filters it alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..core.methods import InferenceMethod
from ..core.model import Series, StateSpaceModel
from ..inference.gaussian.filter import GaussianFilter
from ..inference.gaussian.linearized import Moments
from ..inference.gaussian.methods import Cubature, Extended, Unscented
from ..inference.gaussian.robust import Robust
from ..inference.gaussian.rules import weighted
from ..inference.particles.ensemble import Ensemble
from .filterpy_read import by_rows, drive, gain, gaussian, matrix

if TYPE_CHECKING:
    from ..models import NonlinearGaussian

Transition = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
Emission = Callable[[Tensor, Tensor | None], Tensor]


class Migrated(NamedTuple):
    """A model, and the method that filters it as filterpy did.

    Attributes:
        model: What the filter assumes.
        method: For `method=` of `filter`, `smooth`, `fit` and the others.
    """

    model: StateSpaceModel
    method: InferenceMethod


@dataclass(frozen=True)
class SimplexPoints(GaussianFilter):
    """filterpy's `SimplexSigmaPoints`: the simplex of `Simplex()`, turned the other way.

    Args:
        iterations: Linearisations of each emission, the later ones about the posterior.
        robust: What to do about outliers.

    Source: Moireau & Chapelle (2011), ESAIM: COCV 17.
    """

    iterations: int = 1
    robust: Robust | None = None

    def moments(self, state_dim: int) -> Moments:
        """Return the rule of the regular simplex as filterpy turns it."""
        from filterpy.kalman import SimplexSigmaPoints

        points = SimplexSigmaPoints(state_dim)
        corners = points.sigma_points(np.zeros(state_dim), np.eye(state_dim))
        return weighted(torch.from_numpy(corners), torch.from_numpy(points.Wm))


class Changes(NamedTuple):
    """What the caller of `from_filterpy` adds to a nonlinear filter."""

    transition: Transition | None
    emission: Emission | None
    u0: ArrayLike | None
    update_first: bool
    circular_state: tuple[int, ...]
    circular_obs: tuple[int, ...]


def migrate(kf: Any, changes: Changes) -> Migrated | None:  # noqa: ANN401
    """Return model and method of an EKF, UKF, CKF or EnKF, or `None` for other filters."""
    from filterpy.kalman import CubatureKalmanFilter, EnsembleKalmanFilter
    from filterpy.kalman import ExtendedKalmanFilter as Ekf
    from filterpy.kalman import UnscentedKalmanFilter as Ukf

    if isinstance(kf, Ekf):
        parts = _extended(kf, changes)
        return Migrated(_model(kf, parts, changes, Extended()), Extended())
    if not isinstance(kf, (Ukf, CubatureKalmanFilter, EnsembleKalmanFilter)):
        return None
    _require_plain_differences(kf, changes)
    parts = _functions(kf, changes)
    if isinstance(kf, EnsembleKalmanFilter):
        model = _model(kf, parts, changes, Unscented())
        return Migrated(model, Ensemble(kf.N, update="stochastic"))
    method = _points(kf.points_fn) if isinstance(kf, Ukf) else Cubature()
    return Migrated(_model(kf, parts, changes, method), method)


class _Parts(NamedTuple):
    transition: Transition
    emission: Emission


def _extended(kf: Any, changes: Changes) -> _Parts:  # noqa: ANN401
    from filterpy.kalman import ExtendedKalmanFilter

    if changes.emission is None:
        raise ValueError(
            "`emission` is missing: an ExtendedKalmanFilter gets `Hx` and `HJacobian` at every "
            "update. Pass `emission=h` with `h(z, u)` written in torch; its Jacobian is found."
        )
    if changes.transition is not None:
        return _Parts(changes.transition, changes.emission)
    if type(kf).predict_x is not ExtendedKalmanFilter.predict_x:
        raise ValueError(
            f"`transition` is missing: {type(kf).__name__} overrides `predict_x`. Pass "
            "`transition=f` with `f(z, u, dt)` written in torch; its Jacobian is found."
        )
    n = np.shape(kf.P)[0]
    F, B = torch.from_numpy(matrix(kf, "F", (n, n))), gain(kf, n)
    if changes.u0 is not None:
        drive(B, changes.u0)
    push = None if B is None else torch.from_numpy(B)

    def linear(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        moved = z @ F.mT
        return moved if push is None or u is None else moved + u @ push.mT

    return _Parts(linear, changes.emission)


def _functions(kf: Any, changes: Changes) -> _Parts:  # noqa: ANN401
    """Return the filter's own functions, a row at a time, where no torch function is given."""
    usual = float(getattr(kf, "_dt", getattr(kf, "dt", 1.0)))
    move, emit = by_rows(kf.fx, "transition"), by_rows(kf.hx, "emission")
    return _Parts(
        changes.transition or (lambda z, u, dt: move(z, usual if dt is None else dt)),
        changes.emission or (lambda z, u: emit(z)),
    )


def _model(
    kf: Any,  # noqa: ANN401
    parts: _Parts,
    changes: Changes,
    method: GaussianFilter,
) -> NonlinearGaussian:
    """Return the model whose start is the filter's state, moved by one step."""
    from ..models import NonlinearGaussian

    x, P, Q, R = (torch.from_numpy(value) for value in gaussian(kf))
    B, u0 = gain(kf, len(x)), changes.u0
    size = 0 if B is None else B.shape[1]
    u = torch.zeros(1, size, dtype=x.dtype) if u0 is None else torch.as_tensor(u0).to(x)[None]
    options = {
        "Q": Q,
        "R": R,
        "input_dim": u.shape[-1],
        "circular_state": changes.circular_state,
        "circular_obs": changes.circular_obs,
    }
    model = NonlinearGaussian(*parts, m0=x, P0=P, **options)
    if changes.update_first:
        return model
    nothing = torch.full((2, len(R)), torch.nan, dtype=x.dtype)
    with torch.no_grad():
        step = method.filter(model, Series(nothing, u.expand(2, -1) if u.shape[-1] else None))
    return NonlinearGaussian(
        *parts, m0=step.predicted_mean[1], P0=step.predicted_cov[1], **options
    )


def _points(points: Any) -> GaussianFilter:  # noqa: ANN401
    """Return the method with the same sigma points."""
    from filterpy.kalman import JulierSigmaPoints, MerweScaledSigmaPoints, SimplexSigmaPoints
    from scipy.linalg import cholesky

    kind = type(points)
    known = kind in (MerweScaledSigmaPoints, JulierSigmaPoints, SimplexSigmaPoints)
    if not known or points.sqrt not in (cholesky, np.linalg.cholesky):
        raise ValueError(
            "`kf.points_fn` must be Merwe's, Julier's or simplex points with a Cholesky root, got "
            f"{kind.__name__} with {getattr(points, 'sqrt', None)}: other roots turn the points. "
            "Build `NonlinearGaussian(...)` and choose a method, such as `Unscented()`."
        )
    if kind is SimplexSigmaPoints:
        return SimplexPoints()
    if kind is JulierSigmaPoints:
        return Unscented(1.0, 0.0, float(points.kappa))
    return Unscented(float(points.alpha), float(points.beta), float(points.kappa))


def _require_plain_differences(kf: Any, changes: Changes) -> None:  # noqa: ANN401
    for name, given in (("x", changes.circular_state), ("z", changes.circular_obs)):
        mean, residual = getattr(kf, f"{name}_mean", None), getattr(kf, f"residual_{name}", None)
        if (mean is not None or residual not in (None, np.subtract)) and not given:
            place = "circular_state" if name == "x" else "circular_obs"
            raise ValueError(
                f"`kf` takes means or differences of `{name}` by functions of its own. If that is "
                f"for angles, name them: `{place}=(0,)` for the first component, in radians."
            )
