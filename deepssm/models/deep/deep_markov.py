"""The deep Markov model, which with Gaussian parts is the deep Kalman filter."""

from __future__ import annotations

from typing import Literal

import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from ...core.abilities import PaintsImages
from ...core.arguments import checked
from ...core.autoregressive import own_inputs, with_autoregressive_input
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import joint
from .emissions import GaussianEmission
from .parts import (
    Emission,
    HasInputSize,
    HasObservationSize,
    HasStateSize,
    InitializesEmission,
    InitializesNoise,
    MeasuresNoise,
    Transition,
)
from .transitions import ResidualTransition, diagonal_normal, inverse_softplus


@checked
class DeepMarkov(StateSpaceModel):
    """`z_1 ~ N(m, s^2)`, `z_t ~ p(z_t | z_{t-1}, u_t)`, `y_t ~ p(y_t | z_t, u_t)`, all neural.

    Learning puts a normal prior of deviation `prior_scale` on every parameter, in the units of
    the standardized data; without it, forecasts of short series were too sure of themselves.

    Data need no scaling: `initialize_from`, which every learner calls, stores the location and
    scale of `y` and `u` in buffers, and all results are in the units of the data.

    Args:
        obs_dim: Size of `y`.
        state_dim: Size of `z`.
        input_dim: Size of `u`; 0 when there is none.
        transition: A `Transition`, a module `(z, u, dt) -> Distribution`; `ResidualTransition`
            by default.
        emission: An `Emission`, a module `(z, u) -> Distribution`; `GaussianEmission` by default.
        hidden: Width of the default networks.
        feedback: Which part also reads the last observation `y_{t-1}`, the autoregressive input:
            `"transition"`, `"emission"` or `"both"`. It enters that part behind `u_t`, in units of
            one, a missing component as 0, followed by 1 for each component that was seen; such a
            part has `input_dim + 2 obs_dim` inputs. Filters, guides and bounds so condition on
            what was seen. Forecasts, `impute`, `counterfactual` and `simulate` feed each draw
            back into the next step.

    Attributes:
        prior_scale: Read by `SVI(weight_decay=None)`; set it to `None` for no prior.

    Raises:
        ValueError: a size is not positive, or a part is no module or has other sizes.

    Source: Krishnan, Shalit, Sontag (2015), Deep Kalman filters; (2017), Structured inference
    networks for nonlinear state space models.
    """

    prior_scale: float | None = 0.4
    u_loc: Tensor
    u_spread: Tensor
    past_loc: Tensor
    past_spread: Tensor
    initialized: Tensor

    def __init__(
        self,
        obs_dim: int,
        state_dim: int,
        *,
        input_dim: int = 0,
        transition: Transition | None = None,
        emission: Emission | None = None,
        hidden: int = 32,
        feedback: Literal["none", "transition", "emission", "both"] = "none",
    ) -> None:
        super().__init__()
        for name, size, least in (
            ("obs_dim", obs_dim, 1),
            ("state_dim", state_dim, 1),
            ("input_dim", input_dim, 0),
        ):
            if not isinstance(size, int) or size < least:
                raise ValueError(f"`{name}` must be at least {least} and whole, got {size}.")
        self.obs_dim, self.state_dim, self.input_dim = obs_dim, state_dim, input_dim
        self.hidden, self.feedback, self.reads_past = hidden, feedback, feedback != "none"
        moved, emitted = (self._reads(part) for part in ("transition", "emission"))
        self.transition_net = _module("transition", transition) or ResidualTransition(
            state_dim, moved, hidden, levels=min(obs_dim, state_dim)
        )
        self.emission_net = _module("emission", emission) or GaussianEmission(
            state_dim, obs_dim, emitted, hidden
        )
        _check_sizes("transition", self.transition_net, state_dim=state_dim, input_dim=moved)
        _check_sizes(
            "emission", self.emission_net, state_dim=state_dim, obs_dim=obs_dim, input_dim=emitted
        )
        self.initial_mean = nn.Parameter(torch.zeros(state_dim))
        self.initial_raw_scale = nn.Parameter(torch.full((state_dim,), inverse_softplus(1.0)))
        self.register_buffer("u_loc", torch.zeros(input_dim))
        self.register_buffer("u_spread", torch.ones(input_dim))
        if self.reads_past:
            self.register_buffer("past_loc", torch.zeros(obs_dim))
            self.register_buffer("past_spread", torch.ones(obs_dim))
        self.register_buffer("initialized", torch.tensor(False))

    def initial(self) -> Independent:
        """Return `p(z_1)`, a diagonal Gaussian."""
        return diagonal_normal(self.initial_mean, F.softplus(self.initial_raw_scale) + 1e-3)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        """Return `p(z_t | z_{t-1} = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`, in the units of the data; autoregressive `(*axes, input + 2 obs)`.
            dt: `(*axes)` or `()`, for transitions that use it.
        """
        return self.transition_net(z, self._scaled(u, "transition"), dt)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | z_t = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`, in the units of the data; autoregressive `(*axes, input + 2 obs)`.
        """
        return self.emission_net(z, self._scaled(u, "emission"))

    @property
    def neural(self) -> bool:
        """True whatever its parts are."""
        return True

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Rows and columns of an observed image; `None` where the emission paints none."""
        net = self.emission_net
        return net.image_size if isinstance(net, PaintsImages) else None

    def initialize_from(self, series: Series) -> None:
        """Store the location and scale of the data and start the noises at their roughness.

        Only the first call does so; a second fit goes on from where the first one ended.

        Args:
            series: The training data; NaN in `y` is ignored.
        """
        if self.initialized:
            return
        self.initialized.fill_(True)
        u = own_inputs(self, series.u)
        if u is not None and self.input_dim:
            rows = u.reshape(-1, self.input_dim)
            self.u_loc.copy_(rows.mean(0))
            self.u_spread.copy_(_positive(rows.std(0, correction=0)))
        if self.reads_past:
            rows = series.y.reshape(-1, self.obs_dim)
            loc = torch.nan_to_num(rows.nanmean(0))
            self.past_loc.copy_(loc)
            self.past_spread.copy_(_positive((rows - loc).square().nanmean(0).sqrt()))
        moved, emitted = self.transition_net, self.emission_net
        if isinstance(emitted, InitializesEmission):
            emitted.initialize_from(series.y)
        if isinstance(emitted, MeasuresNoise) and isinstance(moved, InitializesNoise):
            noise = emitted.noise_level(series.y)
            moved.initialize_scale(float(noise.mean().clamp(0.01, 0.5)))

    def forward(
        self,
        y: Tensor | None = None,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        *,
        time: int | None = None,
        batch_shape: tuple[int, ...] = (),
    ) -> tuple[Tensor, Tensor]:
        """Run as a Pyro program with the sites `z` and `y`, for your own `SVI` or `Predictive`.

        Args:
            y: `(*batch, time, obs)`, NaN where missing; `None` draws `y` too.
            u: `(*batch, time, input)`.
            dt: `(*batch, time)` or `()`.
            time: Number of steps, needed where neither `y` nor `u` tells.
            batch_shape: Independent series to draw where neither `y` nor `u` tells.

        Returns:
            `z` and `y`.

        Raises:
            ValueError: nothing tells the number of steps, or an autoregressive model is to draw.
        """
        if y is not None:
            return joint(self, Series(y, with_autoregressive_input(self, y, u), dt))
        if self.reads_past:
            raise ValueError(
                "`y` is needed by an autoregressive model, whose states and observations take "
                "turns: `ds.simulate(model, time)` draws both."
            )
        if u is not None:
            batch_shape, time = tuple(u.shape[:-2]), u.shape[-2]
        elif time is None:
            raise ValueError("`time` is needed where neither `y` nor `u` is given, got None.")
        empty = torch.empty(*batch_shape, time, self.obs_dim, dtype=self.dtype, device=self.device)
        return joint(self, Series(empty, u, dt), observed=False)

    def _reads(self, part: Literal["transition", "emission"]) -> int:
        """Return the number of inputs of a part."""
        autoregressive = 2 * self.obs_dim if self.feedback in (part, "both") else 0
        return self.input_dim + autoregressive

    def _scaled(self, u: Tensor | None, part: Literal["transition", "emission"]) -> Tensor | None:
        if not self.reads_past:
            return None if u is None or not self.input_dim else (u - self.u_loc) / self.u_spread
        k, p = self.input_dim, self.obs_dim
        if u is None or u.shape[-1] != k + 2 * p:
            raise ValueError(
                f"`u` must hold {k} input(s), the last observation and what was seen of it, "
                f"{k + 2 * p} columns, got {0 if u is None else u.shape[-1]}: the verbs "
                "(`ds.fit`, ...) put them there, and so does `deepssm.as_series`."
            )
        own = (u[..., :k] - self.u_loc) / self.u_spread
        if self.feedback not in (part, "both"):
            return own if k else None
        seen = u[..., k + p :]
        last = seen * (u[..., k : k + p] - self.past_loc) / self.past_spread
        return torch.cat([own, last, seen], dim=-1)


def _positive(spread: Tensor) -> Tensor:
    """Replace what is 0 or unknown by 1."""
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _module(name: str, part: Transition | Emission | None) -> nn.Module | None:
    """Refuse a part whose parameters would not be those of the model."""
    if part is None or isinstance(part, nn.Module):
        return part
    raise ValueError(
        f"`{name}` must be an `nn.Module`, got {type(part).__name__}: put the function into the "
        "`forward` of one."
    )


def _check_sizes(name: str, part: object, **expected: int) -> None:
    """Refuse a part made for other sizes; parts that do not tell theirs pass."""
    own: dict[str, int] = {}
    if isinstance(part, HasStateSize):
        own["state_dim"] = part.state_dim
    if isinstance(part, HasObservationSize):
        own["obs_dim"] = part.obs_dim
    if isinstance(part, HasInputSize):
        own["input_dim"] = part.input_dim
    for size, wanted in expected.items():
        got = own.get(size, wanted)
        if got != wanted:
            raise ValueError(
                f"`{name}` was made for `{size}` {got}, but this model needs {wanted}: "
                f"build it as `{type(part).__name__}(..., {size}={wanted})`."
            )
