"""filterpy's filters as models of this library, and back.

filterpy's `x P F H Q R B z` are `m P A C Q R B y` here. Two habits differ. filterpy's filter
starts at time 0 and predicts before it reads the first `z`, whereas `m0, P0` here describe the
state that emits the first `y`; and its missing measurement is `None`, ours is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..core.abilities import LinearGaussianModel
from ..core.model import LinearParameters, StateSpaceModel
from .filterpy_nonlinear import Changes, Emission, Migrated, Transition, migrate
from .filterpy_read import drive, gain, gaussian, matrix

if TYPE_CHECKING:
    from filterpy.kalman import (
        CubatureKalmanFilter,
        EnsembleKalmanFilter,
        ExtendedKalmanFilter,
        IMMEstimator,
        KalmanFilter,
        SquareRootKalmanFilter,
        UnscentedKalmanFilter,
    )

    from ..models import LinearGaussian

    Linear = KalmanFilter | SquareRootKalmanFilter
    Nonlinear = (
        ExtendedKalmanFilter
        | UnscentedKalmanFilter
        | CubatureKalmanFilter
        | EnsembleKalmanFilter
        | IMMEstimator
    )


@overload
def from_filterpy(
    kf: Linear, *, u0: ArrayLike | None = None, update_first: bool = False
) -> LinearGaussian: ...


@overload
def from_filterpy(
    kf: Nonlinear,
    *,
    u0: ArrayLike | None = None,
    update_first: bool = False,
    transition: Transition | None = None,
    emission: Emission | None = None,
    circular_state: tuple[int, ...] = (),
    circular_obs: tuple[int, ...] = (),
) -> Migrated: ...


def from_filterpy(
    kf: Linear | Nonlinear,
    *,
    u0: ArrayLike | None = None,
    update_first: bool = False,
    transition: Transition | None = None,
    emission: Emission | None = None,
    circular_state: tuple[int, ...] = (),
    circular_obs: tuple[int, ...] = (),
) -> LinearGaussian | Migrated:
    """Return the model that a filterpy filter assumes, from its present state on.

    `m0 = F x + B u0` and `P0 = F P F' + Q`, because filterpy predicts before it reads the first
    measurement. Filtering and smoothing with the model then equal `kf.batch_filter(zs)` and
    `kf.rts_smoother(...)`. (With inputs, filterpy's smoother leaves `B u` out; ours does not.)

    A `KalmanFilter` or `SquareRootKalmanFilter` becomes a `LinearGaussian`, an `IMMEstimator` a
    `SwitchingLinearGaussian` with `Switching()`, and the extended, unscented, cubature and
    ensemble filters a `NonlinearGaussian` with the method of their name. Functions of the filter
    are called row by row; the same functions written in torch are fast, have derivatives, and
    let `fit` learn constants inside them.

    Args:
        kf: A filter of `filterpy.kalman`; it is only read.
        u0: The input that drives the first prediction, `(input,)`; by default zero. Pass the same
            as `u[0]` of the series.
        update_first: The filter will read before it predicts, as in
            `kf.batch_filter(zs, update_first=True)`; then `m0 = x` and `P0 = P`.
        transition: `f(z, u, dt)` in torch, for a nonlinear filter; by default its `fx`, and
            `F x + B u` for an extended one.
        emission: `h(z, u)` in torch; by default the filter's `hx`. An extended filter has none.
        circular_state: Which components of `x` are angles, in the place of `residual_x`.
        circular_obs: Which components of `z` are angles, in the place of `residual_z`.

    Returns:
        The model, and for nonlinear filters a pair `(model, method)`.

    Raises:
        ValueError: another kind of filter, a shape that does not fit, a fading memory or a
            correlation of the noises, none of which such a model can express; or a function
            is missing.

    Source:
        Labbe (2015), Kalman and Bayesian Filters in Python, chapter 6.

    Example:
        >>> from filterpy.kalman import KalmanFilter
        >>> kf = KalmanFilter(dim_x=1, dim_z=1)
        >>> kf.H[:] = 1.0
        >>> from_filterpy(kf).P0
        tensor([[2.]], dtype=torch.float64)
    """
    from filterpy.kalman import IMMEstimator

    if isinstance(kf, IMMEstimator):
        from .filterpy_imm import migrate_imm

        return migrate_imm(kf, u0, update_first)
    changes = Changes(transition, emission, u0, update_first, circular_state, circular_obs)
    found = migrate(kf, changes)
    return _linear(kf, u0, update_first) if found is None else found


def _linear(kf: Any, u0: ArrayLike | None, update_first: bool) -> LinearGaussian:  # noqa: ANN401
    from ..models import LinearGaussian

    _check_class(kf)
    x, P, Q, R = gaussian(kf)
    n, p = len(x), len(R)
    F, H, B = matrix(kf, "F", (n, n)), matrix(kf, "H", (p, n)), gain(kf, n)
    if not update_first:
        x, P = F @ x, F @ P @ F.T + Q
        if u0 is not None:
            x = x + drive(B, u0)
    A, Q, H, R, x, P = (torch.from_numpy(value) for value in (F, Q, H, R, x, P))
    push = None if B is None else torch.from_numpy(B)
    return LinearGaussian(A, Q, H, R, B=push, m0=x, P0=P)


def to_filterpy(model: LinearGaussianModel) -> KalmanFilter:
    """Return a filterpy filter whose `x, P` are the model's `m0, P0`.

    It stands before the first measurement, so read before predicting:
    `kf.batch_filter(zs, update_first=True)`, or `kf.update(z)` first in a loop.

    Args:
        model: A linear-Gaussian model with constant matrices, a proper start, no offsets and no
            input in the emission: what filterpy can express.

    Raises:
        ValueError: the model has one of those.
    """
    from filterpy.kalman import KalmanFilter

    inputs = model.input_dim if isinstance(model, StateSpaceModel) else 0
    with torch.no_grad():
        none = torch.zeros(1, inputs, dtype=torch.float64) if inputs else None
        parameters = model.linear_parameters(none, None)
        _check_expressible(parameters)
        gain = _input_gain(model, parameters, inputs)
    A, C = _constant(parameters.transition.matrix), _constant(parameters.emission.matrix)
    kf = KalmanFilter(dim_x=A.shape[1], dim_z=C.shape[0], dim_u=inputs)
    kf.x = parameters.initial.mean.numpy(force=True).copy()
    kf.P = parameters.initial.cov.numpy(force=True).copy()
    kf.F, kf.H = A, C
    kf.Q, kf.R = _constant(parameters.transition.cov), _constant(parameters.emission.cov)
    setattr(kf, "B", gain)  # noqa: B010  (filterpy declares it as None)
    return kf


def from_measurements(zs: Sequence[ArrayLike | None], dim_z: int) -> Tensor:
    """Return filterpy's list of measurements as a series.

    Args:
        zs: Measurements; `None` is missing.
        dim_z: Number of components.

    Returns:
        `(time, dim_z)`, float64, NaN where missing.
    """
    rows = [np.full(dim_z, np.nan) if z is None else np.array(z, dtype=float).ravel() for z in zs]
    wrong = next((i for i, row in enumerate(rows) if len(row) != dim_z), None)
    if wrong is not None:
        raise ValueError(
            f"`zs` must hold `None` or {dim_z} number(s) at each step, got {len(rows[wrong])} at "
            f"step {wrong}."
        )
    return torch.from_numpy(np.stack(rows))


def _check_class(kf: Any) -> None:  # noqa: ANN401
    from filterpy.kalman import KalmanFilter, SquareRootKalmanFilter

    if isinstance(kf, SquareRootKalmanFilter):
        return
    if not isinstance(kf, KalmanFilter):
        raise ValueError(
            "`kf` must be a filterpy KalmanFilter, SquareRootKalmanFilter, ExtendedKalmanFilter, "
            "UnscentedKalmanFilter, CubatureKalmanFilter, EnsembleKalmanFilter or IMMEstimator, "
            f"got {type(kf).__name__}. Set up a `KalmanFilter` with the same matrices."
        )
    if kf.alpha != 1.0:
        raise ValueError(
            f"`kf.alpha` must be 1, got {kf.alpha}: a fading memory is no probability model. "
            "Enlarge `kf.Q` instead."
        )
    if np.any(kf.M):
        raise ValueError("`kf.M` must be zero: correlated noises have no counterpart here.")


def _check_expressible(parameters: LinearParameters) -> None:
    initial, transition, emission = parameters
    if initial.diffuse is not None:
        raise ValueError(
            "`model` starts diffuse, which filterpy cannot express. Give it `m0` and `P0`."
        )
    numbers = (transition.matrix, transition.cov, emission.matrix, emission.cov)
    if any(value.ndim != 3 or value.shape[0] != 1 for value in numbers):
        raise ValueError(
            "`model` must have one set of constant matrices. For time-varying ones pass `Fs`, "
            "`Qs`, `Hs`, `Rs` to filterpy's `batch_filter`."
        )
    if bool(transition.offset.any() | emission.offset.any()):
        raise ValueError(
            "`model` has offsets `b` or `d`, which filterpy lacks. Subtract `d` from the data and "
            "carry `b` as an input that is always 1."
        )


def _input_gain(
    model: LinearGaussianModel, rest: LinearParameters, inputs: int
) -> np.ndarray | None:
    """Read `B` off the offsets of unit inputs."""
    if not inputs:
        return None
    columns = []
    for unit in torch.eye(inputs, dtype=torch.float64):
        moved = model.linear_parameters(unit[None], None)
        if bool((moved.emission.offset != rest.emission.offset).any()):
            raise ValueError("`model` has inputs in its emission (`D`), which filterpy lacks.")
        columns.append((moved.transition.offset - rest.transition.offset)[0])
    return torch.stack(columns, -1).numpy(force=True)


def _constant(value: Tensor) -> np.ndarray:
    return value[0].numpy(force=True).copy()
