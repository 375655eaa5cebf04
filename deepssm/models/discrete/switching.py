"""Linear-Gaussian models that switch: a hidden Markov chain chooses the matrices of each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from ...core.abilities import LinearGaussianModel
from ...core.arguments import checked
from ...core.deprecation import renamed_class
from ...core.gaussian import mvn, psd_factor
from ...core.model import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Readable,
    StateSpaceModel,
)
from .emissions import shares
from .weighted import log_row


@checked
class SwitchingLinearGaussian(StateSpaceModel):
    """`s_t` a Markov chain, `z_t = A_s z_{t-1} + b_s + w_s`, `y_t = C_s z_t + d_s + v_s`.

    The state of the library's methods is `(one-hot s_t, z_t)`, so that the first `num_modes`
    components of a mean are the probabilities of the modes.

    Args:
        modes: One linear-Gaussian model a mode, with the same observations.
        transition: Transition matrix of the modes, `(num_modes, num_modes)`, fixed; learnt from
            `stickiness` on if `None`.
        initial: Probabilities of the first mode, fixed; learnt if `None`.
        state_maps: For modes of different state, which components of the common state each one
            has: a sequence of index sequences. What a mode lacks is zero while it lasts. By
            default all modes have the same state.
        m0: Mean of the common state at the first observation, `(latent,)`, in the place of the
            modes' own starts; for modes that start diffuse, such as kinematic ones.
        P0: Its covariance, `(latent, latent)`.
        stickiness: Expected share of time steps without a change, where learning starts.

    Raises:
        ValueError: sizes of modes, maps, start or probabilities do not fit.

    Source: Bar-Shalom, Li & Kirubarajan (2001), section 11.6; Kim & Nelson (1999), chapter 5.
    """

    common_mean: Tensor | None
    common_cov: Tensor | None

    def __init__(
        self,
        modes: Sequence[StateSpaceModel],
        *,
        transition: Tensor | None = None,
        initial: Tensor | None = None,
        state_maps: Sequence[Sequence[int]] | None = None,
        m0: Tensor | Sequence[float] | None = None,
        P0: Tensor | Sequence[Sequence[float]] | None = None,
        stickiness: float = 0.95,
    ) -> None:
        super().__init__()
        self.modes = nn.ModuleList(modes)
        self.num_modes, self.obs_dim = len(modes), modes[0].obs_dim
        self.input_dim = max(mode.input_dim for mode in modes)
        self.reads_time = any(mode.reads_time for mode in modes)
        maps = state_maps or [range(mode.state_dim) for mode in modes]
        self.state_maps = tuple(tuple(indices) for indices in maps)
        self.latent_dim = 1 + max(max(indices) for indices in self.state_maps)
        self.state_dim = self.num_modes + self.latent_dim
        self._check(modes)
        n, dtype = self.num_modes, modes[0].dtype
        self._hold_start(m0, P0, dtype)
        start = torch.full((n, n), (1 - stickiness) / max(n - 1, 1), dtype=dtype)
        start.fill_diagonal_(stickiness if n > 1 else 1.0)
        self._hold("transition", transition, start)
        self._hold("initial", initial, torch.full((n,), 1 / n, dtype=dtype))

    def log_initial(self) -> Tensor:
        """Return the log-probabilities of the first mode, `(num_modes,)`."""
        return torch.log_softmax(self.initial_logits, -1)

    def log_transition(self) -> Tensor:
        """Return `log p(s_t = j | s_{t-1} = i)`, `(num_modes, num_modes)`."""
        return torch.log_softmax(self.transition_logits, -1)

    def mode_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the matrices of all modes in the common state.

        Args:
            u: `(*batch, time, input)`.
            dt: `(*batch, time)` or `()`.

        Returns:
            Parameters with an axis for the mode after the time axis; the initial ones with one
            before the state.
        """
        parts: list[LinearParameters] = []
        for mode, indices in zip(self.modes, self.state_maps, strict=True):
            assert isinstance(mode, LinearGaussianModel)
            own = mode.linear_parameters(u, dt)
            if self.common_mean is not None:
                own = own._replace(initial=GaussianInitial(own.initial.mean, own.initial.cov))
            parts.append(_embedded(own, indices, self.latent_dim))
        initial = self._starts(parts)
        conditionals = []
        for name in ("transition", "emission"):
            of_modes = [getattr(p, name) for p in parts]
            fields = zip(*of_modes, strict=True)
            conditionals.append(
                LinearConditional(*(_stack(f, r) for f, r in zip(fields, (2, 1, 2), strict=True)))
            )
        return LinearParameters(initial, *conditionals)

    def readable(self) -> dict[str, Readable]:
        """Return the probabilities of modes, by the names of what holds them."""
        return {
            "initial_logits": shares("initial", self.initial_logits),
            "transition_logits": shares("transition", self.transition_logits),
        }

    def initial(self) -> Distribution:
        """Return `p(s_1, z_1)`."""
        start = self.mode_parameters(None, None).initial
        logits = self.log_initial()
        return SwitchingDistribution(logits, start.mean, psd_factor(start.cov, "P0"))

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        """Return `p(s_t, z_t | s_{t-1}, z_{t-1})`.

        Args:
            z: One-hot mode and state, `(*axes, num_modes + latent)`.
            u: `(*axes, input)`.
            dt: `(*axes)` or `()`.
        """
        matrix, offset, cov = _now(self.mode_parameters(_lift(u), dt).transition, z)
        mode, latent = z[..., : self.num_modes], z[..., self.num_modes :]
        logits = log_row(mode, self.log_transition())
        mean = (matrix @ latent[..., None, :, None])[..., 0] + offset
        return SwitchingDistribution(logits, mean, psd_factor(cov, "Q"))

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | s_t, z_t)`.

        Args:
            z: One-hot mode and state, `(*axes, num_modes + latent)`.
            u: `(*axes, input)`.
        """
        matrix, offset, cov = _now(self.mode_parameters(_lift(u), None).emission, z)
        mode, latent = z[..., : self.num_modes], z[..., self.num_modes :]
        means = (matrix @ latent[..., None, :, None])[..., 0] + offset
        mean = torch.einsum("...k,...kp->...p", mode, means)
        factors = psd_factor(cov, "R").expand(*means.shape, means.shape[-1])
        return mvn(mean, torch.einsum("...k,...kpq->...pq", mode, factors))

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the modes and of the components of the state."""
        modes = tuple(f"mode{k}" for k in range(self.num_modes))
        return modes + tuple(f"z{i}" for i in range(self.latent_dim))

    def _starts(self, parts: Sequence[LinearParameters]) -> GaussianInitial:
        """Return the start of each mode, with an axis for the mode before the state."""
        if self.common_mean is None or self.common_cov is None:
            mean = _stack([p.initial.mean for p in parts], 1)
            return GaussianInitial(mean, _stack([p.initial.cov for p in parts], 2))
        mean, cov, modes = self.common_mean, self.common_cov, self.num_modes
        return GaussianInitial(mean.expand(modes, -1), cov.expand(modes, -1, -1))

    def _hold_start(self, m0: object, P0: object, dtype: torch.dtype) -> None:
        if (m0 is None) != (P0 is None):
            raise ValueError("`m0` and `P0` belong together: pass both, or neither.")
        mean = None if m0 is None else torch.as_tensor(m0, dtype=dtype)
        cov = None if P0 is None else torch.as_tensor(P0, dtype=dtype)
        if mean is not None and cov is not None:
            size = self.latent_dim
            if mean.shape != (size,) or cov.shape != (size, size):
                raise ValueError(
                    f"`m0` and `P0` must be ({size},) and ({size}, {size}), the common state, got "
                    f"{tuple(mean.shape)} and {tuple(cov.shape)}."
                )
            psd_factor(cov, "P0")
        self.register_buffer("common_mean", mean)
        self.register_buffer("common_cov", cov)

    def _check(self, modes: Sequence[StateSpaceModel]) -> None:
        if len(self.state_maps) != len(modes):
            raise ValueError(
                f"`state_maps` must have one entry a mode, got {len(self.state_maps)} for "
                f"{len(modes)} modes."
            )
        for k, (mode, indices) in enumerate(zip(modes, self.state_maps, strict=True)):
            if not isinstance(mode, LinearGaussianModel):
                raise ValueError(
                    f"`modes[{k}]` must be linear-Gaussian, got {type(mode).__name__}."
                )
            if mode.obs_dim != self.obs_dim:
                raise ValueError(
                    f"`modes` must share their observations: modes[{k}] has {mode.obs_dim}, "
                    f"modes[0] has {self.obs_dim}."
                )
            if len(indices) != mode.state_dim:
                raise ValueError(
                    f"`state_maps[{k}]` must name {mode.state_dim} components, the state of "
                    f"modes[{k}], got {len(indices)}."
                )

    def _hold(self, name: str, fixed: Tensor | None, start: Tensor) -> None:
        if fixed is None:
            setattr(self, f"{name}_logits", nn.Parameter(start.log()))
            return
        probs = torch.as_tensor(fixed, dtype=start.dtype)
        total = probs.sum(-1)
        bad = probs.shape != start.shape or bool((probs < 0).any())
        if bad or not torch.allclose(total, torch.ones_like(total)):
            raise ValueError(
                f"`{name}` must hold probabilities of shape {tuple(start.shape)} that sum to one, "
                f"got shape {tuple(probs.shape)} and sums {total.tolist()}."
            )
        self.register_buffer(f"{name}_logits", probs.log())


class SwitchingDistribution(Distribution):
    """A mixture whose draw says which component it came from: `(one-hot, x)`.

    Args:
        logits: `(*axes, modes)`.
        mean: `(*axes, modes, n)`.
        factor: Lower-triangular, `(*axes, modes, n, n)`.
    """

    # torch declares a property and its own distributions set a plain dict, as here.
    arg_constraints: dict[str, constraints.Constraint] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, logits: Tensor, mean: Tensor, factor: Tensor) -> None:
        axes = torch.broadcast_shapes(logits.shape[:-1], mean.shape[:-2], factor.shape[:-3])
        self.logits = logits.expand(*axes, logits.shape[-1])
        self.means = mean.expand(*axes, *mean.shape[-2:])
        self.factor = factor.expand(*axes, *factor.shape[-3:])
        size = torch.Size((logits.shape[-1] + mean.shape[-1],))
        super().__init__(axes, size, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Probabilities of the modes and mean of `x`."""
        p = torch.softmax(self.logits, -1)
        return torch.cat((p, torch.einsum("...k,...kn->...n", p, self.means)), -1)

    @property
    def covariance_matrix(self) -> Tensor:
        """Joint covariance of the one-hot mode and `x`."""
        p = torch.softmax(self.logits, -1)
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device).expand(*p.shape, -1)
        left = torch.cat((eye, self.means), -1) - self.mean[..., None, :]
        cov = torch.einsum("...k,...ki,...kj->...ij", p, left, left)
        within = torch.einsum("...k,...knm->...nm", p, self.factor @ self.factor.mT)
        modes = p.shape[-1]
        return cov + torch.nn.functional.pad(within, (modes, 0, modes, 0))

    @property
    def variance(self) -> Tensor:
        """Diagonal of the covariance."""
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    def expand(
        self, batch_shape: Sequence[int], _instance: object = None
    ) -> SwitchingDistribution:
        """Return the same distribution with more leading axes."""
        shape = tuple(batch_shape)
        return SwitchingDistribution(
            self.logits.expand(*shape, -1),
            self.means.expand(*shape, *self.means.shape[-2:]),
            self.factor.expand(*shape, *self.factor.shape[-3:]),
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw modes and states, `(*sample_shape, *axes, modes + n)`."""
        with torch.no_grad():
            mode = Categorical(logits=self.logits, validate_args=False).sample(
                torch.Size(sample_shape)
            )
            hot = torch.nn.functional.one_hot(mode, self.logits.shape[-1]).to(self.means.dtype)
            mean = torch.einsum("...k,...kn->...n", hot, self.means)
            factor = torch.einsum("...k,...knm->...nm", hot, self.factor)
            noise = torch.randn_like(mean)
            return torch.cat((hot, mean + (factor @ noise[..., None])[..., 0]), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of `(one-hot, x)`, `(*axes)`."""
        modes = self.logits.shape[-1]
        hot, x = value[..., :modes], value[..., modes:]
        density = mvn(self.means, self.factor).log_prob(x[..., None, :])
        terms = torch.log_softmax(self.logits, -1) + density
        return torch.where(hot > 0.5, terms, 0.0).sum(-1)


SwitchingLaw = renamed_class("SwitchingLaw", SwitchingDistribution)


def _embedded(
    parameters: LinearParameters, indices: tuple[int, ...], size: int
) -> LinearParameters:
    """Write a mode's matrices in the common state; components it lacks become zero."""
    (m0, P0, diffuse), (A, b, Q), (C, d, R) = parameters
    if diffuse is not None and diffuse.shape[-1]:
        raise ValueError(
            "`modes` must start from a proper distribution: give each a finite `P0`, or pass `m0` "
            "and `P0` for all."
        )
    if indices == tuple(range(size)):
        return parameters
    select = torch.eye(size, dtype=A.dtype, device=A.device)[list(indices)]
    back = select.mT
    return LinearParameters(
        GaussianInitial(m0 @ select, back @ P0 @ select),
        LinearConditional(back @ A @ select, b @ select, back @ Q @ select),
        LinearConditional(C @ select, d, R),
    )


def _stack(tensors: Sequence[Tensor], event: int) -> Tensor:
    """Stack over modes just before the event axes."""
    return torch.stack(torch.broadcast_tensors(*tensors), -event - 1)


def _now(conditional: LinearConditional, z: Tensor) -> LinearConditional:
    """Drop the time axis where `z` has no axis at all, so that matrices meet `(*axes, state)`."""
    if z.ndim > 1:
        return conditional
    matrix, offset, cov = conditional
    return LinearConditional(matrix[..., 0, :, :, :], offset[..., 0, :, :], cov[..., 0, :, :, :])


def _lift(u: Tensor | None) -> Tensor | None:
    return u[None] if u is not None and u.ndim == 1 else u
