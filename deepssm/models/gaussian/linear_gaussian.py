"""The linear-Gaussian state space model with matrices given by the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from pyro.nn import PyroParam, PyroSample
from torch import Tensor, nn

from ...core.gaussian import mvn, psd_factor
from ...core.model import GaussianInitial, LinearConditional, LinearParameters, StateSpaceModel
from ...linear.stationary import stationary_moments

Start = Literal["known", "stationary", "diffuse"]
Matrix = Tensor | ArrayLike | nn.Parameter | PyroParam | PyroSample
MATRICES = ("A", "B", "b", "Q", "C", "D", "d", "R", "m0", "P0")


class LinearGaussian(StateSpaceModel):
    r"""A state space model with linear means and Gaussian noise.

    .. math::
        z_t = A_t z_{t-1} + B_t u_t + b_t + w_t, \quad w_t \sim N(0, Q_t) \\
        y_t = C_t z_t + D_t u_t + d_t + v_t, \quad v_t \sim N(0, R_t), \quad z_1 \sim N(m_0, P_0)

    Entry `t` of a time-varying array drives the step from `t-1` to `t`; entry 0 of `A, B, b, Q` is
    unused. A plain array is fixed. To learn a parameter pass
    `PyroParam(value, constraint)`, for example with `constraints.positive_definite`, or an
    `nn.Parameter`; to give it a prior pass a `PyroSample`.

    Args:
        A: Transition, `(state, state)`, or `(*batch, time, state, state)`.
        Q: Covariance of the transition noise, any positive semi-definite matrix, shaped as `A`.
        C: Emission, `(obs, state)`, or `(*batch, time, obs, state)`.
        R: Covariance of the emission noise, `(obs, obs)` or `(*batch, time, obs, obs)`.
        B: Effect of inputs on the state, `(state, input)` or with leading axes.
        D: Effect of inputs on the observation, `(obs, input)` or with leading axes.
        b: Offset of the state, `(state,)` or `(*batch, time, state)`.
        d: Offset of the observation, `(obs,)` or `(*batch, time, obs)`.
        m0: Mean of the state that emits the first observation, `(state,)`; zero by default.
        P0: Its covariance, `(state, state)`.
        initial: `"known"` uses `m0, P0`; `"stationary"` the stationary distribution of the
            transition; `"diffuse"` a flat prior, treated exactly. A sequence gives one of these to
            each state.

    Raises:
        ValueError: Shapes do not fit, a covariance is not positive semi-definite, or a start is
            not given or does not exist.

    Source: Kalman (1960); Durbin & Koopman (2012), ch. 4 and 5.
    """

    def __init__(
        self,
        A: Matrix,
        Q: Matrix,
        C: Matrix,
        R: Matrix,
        *,
        B: Matrix | None = None,
        D: Matrix | None = None,
        b: Matrix | None = None,
        d: Matrix | None = None,
        m0: Matrix | None = None,
        P0: Matrix | None = None,
        initial: Start | Sequence[Start] = "known",
    ) -> None:
        super().__init__()
        given = {"A": A, "Q": Q, "C": C, "R": R, "B": B, "D": D, "b": b, "d": d}
        rounding = {
            name: _attach(self, name, value)
            for name, value in (given | {"m0": m0, "P0": P0}).items()
        }
        for name, matrix in (("A", self.A), ("C", self.C)):
            if matrix.ndim < 2:
                raise ValueError(
                    f"`{name}` must be a matrix `(row, col)`, got shape {tuple(matrix.shape)}. "
                    "Write `[[0.9]]` for a single number."
                )
        self.state_dim, self.obs_dim = self.A.shape[-1], self.C.shape[-2]
        self.reads_time = max(self.A.ndim, self.Q.ndim) > 2
        gains = [x for x in (self.B, self.D) if x is not None]
        self.input_dim = gains[0].shape[-1] if gains else 0
        self.start = _starts(initial, self.state_dim)
        self._check(rounding)

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the matrices with a time axis, inputs folded into the offsets."""
        A, C = self.A, self.C
        return LinearParameters(
            self._initial_moments(A),
            LinearConditional(_timed(A, 2), _offset(self.b, self.B, u, A), _timed(self.Q, 2)),
            LinearConditional(_timed(C, 2), _offset(self.d, self.D, u, C), _timed(self.R, 2)),
        )

    def matrices(self) -> dict[str, Tensor | None]:
        """Return the constrained values of `A, B, b, Q, C, D, d, R, m0, P0` by these names."""
        return {name: getattr(self, name) for name in MATRICES}

    def initial(self) -> dist.MultivariateNormal:
        """Return `p(z_1)`.

        Raises:
            ValueError: Some state starts diffuse, so that `p(z_1)` is not a distribution.
        """
        mean, cov, diffuse = self._initial_moments(self.A)
        if diffuse is not None:
            raise ValueError(
                "A diffuse start has no distribution to draw from. Give `m0` and `P0`, or use "
                '`initial="stationary"`; `Kalman()` handles the diffuse start exactly.'
            )
        return mvn(mean, psd_factor(cov, "P0"))

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> dist.MultivariateNormal:
        """Return `p(z_t | z_{t-1} = z, u_t)`; needs constant matrices."""
        return self._conditional(z, u, self.A, self.B, self.b, self.Q, "Q")

    def emission(self, z: Tensor, u: Tensor | None = None) -> dist.MultivariateNormal:
        """Return `p(y_t | z_t = z, u_t)`; needs constant matrices."""
        return self._conditional(z, u, self.C, self.D, self.d, self.R, "R")

    def _conditional(
        self,
        z: Tensor,
        u: Tensor | None,
        matrix: Tensor,
        gain: Tensor | None,
        offset: Tensor | None,
        cov: Tensor,
        name: str,
    ) -> dist.MultivariateNormal:
        if matrix.ndim > 2 or cov.ndim > 2 or (offset is not None and offset.ndim > 1):
            raise ValueError(
                "One step of a model with time-varying matrices is ambiguous. Read the step from "
                "`linear_parameters(u, dt)`, or use `Kalman()`, which does."
            )
        mean = (matrix @ z[..., None])[..., 0]
        mean = mean if offset is None else mean + offset
        mean = mean if gain is None or u is None else mean + (gain @ u[..., None])[..., 0]
        return mvn(mean, psd_factor(cov, name))

    def _initial_moments(self, A: Tensor) -> GaussianInitial:
        n, kinds, mean, cov = self.state_dim, self.start, self.m0, self.P0
        mean = A.new_zeros(n) if mean is None else mean
        cov = A.new_zeros(n, n) if cov is None else cov
        if all(kind == "known" for kind in kinds):
            return GaussianInitial(mean, cov)
        still = [i for i, kind in enumerate(kinds) if kind == "stationary"]
        open_ = [i for i, kind in enumerate(kinds) if kind == "diffuse"]
        if open_:
            known = torch.tensor([kind != "diffuse" for kind in kinds], device=mean.device)
            cov = torch.where(known[:, None] & known, cov, torch.zeros_like(cov))
            mean = torch.where(known, mean, torch.zeros_like(mean))
        if still:
            b = A.new_zeros(n) if self.b is None else self.b
            mean, cov = stationary_moments(A, b, self.Q, still, mean, cov)
        eye = torch.eye(n, dtype=A.dtype, device=A.device)
        return GaussianInitial(mean, cov, eye[:, open_] if open_ else None)

    def _check(self, rounding: dict[str, float]) -> None:
        n, p, k = self.state_dim, self.obs_dim, self.input_dim
        shapes = {"A": (n, n), "Q": (n, n), "C": (p, n), "R": (p, p), "B": (n, k), "D": (p, k)}
        shapes |= {"b": (n,), "d": (p,), "m0": (n,), "P0": (n, n)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None:
                _require(name, value, shape, self.A.dtype)
        for name in ("Q", "R", "P0"):
            if (value := getattr(self, name)) is not None:
                factor = psd_factor(value.detach(), name, eps=rounding[name] or None)
                if rounding[name] > torch.finfo(value.dtype).eps:
                    # What is singular in float32 is slightly indefinite when read in float64.
                    self.register_buffer(name, factor @ factor.mT)
        if "known" in self.start and self.P0 is None:
            raise ValueError(
                "`P0`, the covariance of the first state, is missing. Pass `m0` and `P0`, or "
                '`initial="stationary"` or `"diffuse"`.'
            )
        if "stationary" in self.start and (self.A.ndim > 2 or self.Q.ndim > 2):
            raise ValueError(
                '`initial="stationary"` needs constant `A` and `Q`. Pass `m0` and `P0` instead.'
            )
        self._initial_moments(self.A)


def _attach(model: LinearGaussian, name: str, value: Matrix | None) -> float:
    """Keep what can be learnt as it is; make anything else a fixed float64 tensor.

    Returns:
        The relative rounding of the numbers given, where it is coarser than that of float64.
    """
    if value is None or isinstance(value, nn.Parameter | PyroParam | PyroSample):
        setattr(model, name, value)
        return 0.0
    if not isinstance(value, Tensor):
        value = _numbers(name, value)
    tensor = value
    if tensor.requires_grad:
        setattr(model, name, tensor)
        return 0.0
    model.register_buffer(name, tensor.detach().clone().to(torch.float64))
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def _numbers(name: str, value: Matrix) -> Tensor:
    array = np.array(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"`{name}` must be an array of real numbers, got {value!r}.")
    return torch.from_numpy(array if array.dtype.kind == "f" else array.astype(float))


def _starts(initial: Start | Sequence[Start], n: int) -> tuple[Start, ...]:
    kinds: tuple[Start, ...] = (initial,) * n if isinstance(initial, str) else tuple(initial)  # type: ignore[assignment]
    if len(kinds) != n or not set(kinds) <= {"known", "stationary", "diffuse"}:
        raise ValueError(
            '`initial` must be "known", "stationary" or "diffuse", or a sequence of '
            f"{n} of these, one a state; got {initial!r}."
        )
    return kinds


def _offset(
    offset: Tensor | None, gain: Tensor | None, u: Tensor | None, matrix: Tensor
) -> Tensor:
    base = matrix.new_zeros(1, matrix.shape[-2]) if offset is None else _timed(offset, 1)
    if gain is None or u is None:
        return base
    return base + (_timed(gain, 2) @ u[..., None])[..., 0]


def _timed(x: Tensor, event: int) -> Tensor:
    """Give a constant array a time axis of size 1."""
    return x[None] if x.ndim == event else x


def _require(name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    event = len(shape)
    if value.ndim < event or tuple(value.shape[value.ndim - event :]) != shape:
        raise ValueError(
            f"`{name}` must have shape {shape}, or `(*batch, time, ...)` before it, "
            f"got {tuple(value.shape)}."
        )
    if value.dtype != dtype:
        raise ValueError(
            f"`{name}` is {value.dtype} while `A` is {dtype}; give every parameter the same dtype "
            "(plain arrays become float64)."
        )
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
