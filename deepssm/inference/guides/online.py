"""A running particle filter: one observation at a time, moved by the model or linearised."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.guides import Guide
from ...core.model import Data, Series, StateSpaceModel
from ...core.pyro_sites import draw, observed_log_prob, seeded
from ..online.state import as_numbers, require_state
from ..online.wrapping import checked_observation
from ..simulation.angles import average, circular
from .asking import ask_filtering, innermost
from .linearized_guide import LinearizedGuide
from .particle_filter import Particles, propose, resample_if_uneven
from .posterior import PriorPosterior, StepwisePosterior


class OnlineParticles:
    """A running particle filter over one series; see `OnlineFilter`.

    A `LinearizedGuide` proposes, as it reads no step but the present one; where any other guide
    was trained, particles move by the model itself. Draws go on from a seed, so that a run
    repeats itself; it equals the filter over a whole series in distribution, not draw by draw.

    Args:
        model: Any model with a proper start.
        guide: The trained guide.
        num_particles: How many.
        seed: Of all draws.

    Attributes:
        log_likelihood: Sum of the log-densities of the observations so far, in nats.
    """

    def __init__(
        self, model: StateSpaceModel, guide: Guide, num_particles: int, seed: int = 0
    ) -> None:
        self.log_likelihood = 0.0
        self._model, self._guide = model, guide
        self._source = torch.Generator(model.device).manual_seed(seed)
        self._wrap = circular(model.circular_state, model.state_dim)
        self._weight = torch.full(
            (num_particles,), -math.log(num_particles), dtype=model.dtype, device=model.device
        )
        self._input: Data | None = None
        with torch.no_grad(), seeded(self._source):
            prior = model.initial().expand(torch.Size((num_particles,)))
            self._z, self._prior = draw(prior), prior
        self._drawn = False

    @torch.no_grad()
    def predict(self, dt: float | None = None, u: Data | None = None) -> None:
        """Move the state one step; `dt` and `u`, `(input,)`, are those of the arriving step."""
        self._input = u
        with seeded(self._source):
            self._settle()
            particles = resample_if_uneven(Particles(self._z, self._weight))
            z, self._weight = particles.z, particles.log_weight
            elapsed = None if dt is None else z.new_full(z.shape[:-1], float(dt))
            told = self._told(u)
            moved = None if told is None else told.expand(*z.shape[:-1], -1)
            self._z, self._prior = z, self._model.transition(z, moved, elapsed)
            self._drawn = False

    @torch.no_grad()
    def update(self, y: Data, u: Data | None = None) -> float:
        """Condition on one observation, `(obs,)`, NaN where missing; return its log-density."""
        observation = checked_observation(self._model, y, self._z)
        if bool(observation.isnan().all()):
            return 0.0
        told = self._told(self._input if u is None else u)
        with seeded(self._source):
            ratio = torch.zeros_like(self._weight)
            if not self._drawn:
                step = Series(observation[None], None if told is None else told[None])
                particles = Particles(self._z, self._weight)
                self._z, ratio = propose(self._proposals(step), particles, self._prior, 0)
                self._drawn = True
        seen = None if told is None else told.expand(*self._z.shape[:-1], -1)
        emission = self._model.emission(self._z, seen)
        score = observed_log_prob(emission, observation.expand(len(self._z), -1))
        joint = self._weight + ratio + score
        gained = joint.logsumexp(0)
        self._weight = joint - gained
        self.log_likelihood += float(gained)
        return float(gained)

    @property
    def mean(self) -> Tensor:
        """Mean of the current state, `(state,)`."""
        return average(self._cloud(), self._wrap, self._weight.exp())

    @property
    def cov(self) -> Tensor:
        """Covariance of the current state, `(state, state)`."""
        left = self._wrap(self._cloud() - self.mean)
        return torch.einsum("k,ki,kj->ij", self._weight.exp(), left, left)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the particles and where their random numbers are, to go on later."""
        self._cloud()
        total = torch.tensor(self.log_likelihood, dtype=torch.float64)
        now = {"z": self._z.clone(), "log_weight": self._weight.clone()}
        return now | {"log_likelihood": total, "random": self._source.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: The sizes are those of another model.
        """
        own = {"z": self._z.shape, "log_weight": self._weight.shape}
        require_state(state, **own, random=self._source.get_state().shape)
        self._z = state["z"].to(self._z, copy=True)
        self._weight = state["log_weight"].to(self._weight, copy=True)
        self._source.set_state(state["random"].cpu())
        self.log_likelihood = float(state["log_likelihood"])
        self._drawn, self._input = True, None

    def _proposals(self, step: Series) -> StepwisePosterior:
        """Return proposals for a series of the present step alone."""
        if isinstance(innermost(self._guide), LinearizedGuide):
            return ask_filtering(self._guide, self._model, step)
        return PriorPosterior(self._model, step)

    @torch.no_grad()
    def _cloud(self) -> Tensor:
        with seeded(self._source):
            self._settle()
        return self._z

    def _settle(self) -> None:
        """Draw from the prior where no observation came."""
        if not self._drawn:
            self._z, self._drawn = draw(self._prior), True

    def _told(self, u: Data | None) -> Tensor | None:
        model = self._model
        width = model.input_dim + 2 * model.obs_dim * model.reads_past
        if not width:
            return None
        return self._weight.new_zeros(width) if u is None else as_numbers(u, self._weight)
