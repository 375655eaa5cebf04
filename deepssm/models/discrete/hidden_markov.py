"""Hidden Markov models: finitely many states, any emission."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical

from ...core.arguments import checked
from ...core.model import Readable, Series, StateSpaceModel
from .emissions import StateEmission, shares
from .weighted import log_row

TransitionProbabilities = Callable[[Tensor | None, Tensor | None], Tensor]


@checked
class HiddenMarkov(StateSpaceModel):
    """`z_1 ~ pi`, `p(z_t = j | z_{t-1} = i, u_t) = softmax_j(a_ij + w_ij' u_t)`, `y_t ~ family_z`.

    States are one-hot vectors of size `num_states`, so that every method of the library can read
    them; `ForwardBackward()` is exact.

    Args:
        emission: The family of `p(y | z = k)`, such as `GaussianStates(3, 2)`.
        initial: Probabilities of the first state, `(num_states,)`, fixed; learnt if `None`.
        transition: Transition matrix, rows summing to one, fixed, or a function of `(u, dt)` that
            returns `(*axes, num_states, num_states)`; learnt if `None`. Zeros stay zeros.
        input_dim: Size of `u`.
        driven: Let inputs drive the transitions, with one learnt weight a pair of states.
        stickiness: Expected share of time steps without a change, where learning starts.

    Raises:
        ValueError: probabilities have a wrong shape, are negative, or do not sum to one.

    Source: Rabiner (1989), Proceedings of the IEEE 77(2); Bengio & Frasconi (1995) for inputs.
    """

    def __init__(
        self,
        emission: StateEmission,
        *,
        initial: Tensor | None = None,
        transition: Tensor | TransitionProbabilities | None = None,
        input_dim: int = 0,
        driven: bool = False,
        stickiness: float = 0.9,
    ) -> None:
        super().__init__()
        self.family = emission
        self.state_dim, self.obs_dim = emission.num_states, emission.obs_dim
        self.input_dim = max(input_dim, emission.input_dim)
        dtype = next(iter(emission.parameters())).dtype
        n = self.state_dim
        self.transition_function = None
        if callable(transition) and not isinstance(transition, Tensor):
            self.transition_function = transition
        else:
            start = torch.full((n, n), (1 - stickiness) / max(n - 1, 1), dtype=dtype)
            start.fill_diagonal_(stickiness if n > 1 else 1.0)
            self._hold("transition_logits", transition, start)
        self.reads_time = self.transition_function is not None
        self._hold("initial_logits", initial, torch.full((n,), 1 / n, dtype=dtype))
        self.transition_weight = (
            nn.Parameter(torch.zeros(n, n, self.input_dim, dtype=dtype)) if driven else None
        )

    def log_initial(self) -> Tensor:
        """Return `log p(z_1)`, `(num_states,)`."""
        return torch.log_softmax(self.initial_logits, -1)

    def log_transition(self, u: Tensor | None = None, dt: Tensor | None = None) -> Tensor:
        """Return `log p(z_t = j | z_{t-1} = i)`.

        Args:
            u: `(*batch, time, input)`.
            dt: `(*batch, time)` or `()`.

        Returns:
            `(*batch, time, num_states, num_states)`; `time` is 1 if nothing drives them.
        """
        if self.transition_function is not None:
            probs = self.transition_function(u, dt)
            return _log(probs if probs.ndim > 2 else probs[None])
        logits = self.transition_logits
        if self.transition_weight is not None and u is not None:
            logits = logits + torch.einsum("ijm,...m->...ij", self.transition_weight, u)
        logits = torch.log_softmax(logits, -1)
        return logits if logits.ndim > 2 else logits[None]

    def log_emission(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return `log p(y_t | z_t = k)`, `(*batch, time, num_states)`; missing parts add 0.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
            u: `(*batch, time, input)`.

        Raises:
            ValueError: an observation is none that the family can emit.
        """
        self.family.check(y)
        return self.family.log_prob(y, u)

    def initial(self) -> Distribution:
        """Return `p(z_1)` over one-hot vectors."""
        return OneHotCategorical(logits=self.log_initial(), validate_args=False)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        """Return `p(z_t | z_{t-1} = z)` over one-hot vectors.

        Args:
            z: One-hot, `(*axes, num_states)`.
            u: `(*axes, input)`.
            dt: `(*axes)` or `()`.
        """
        matrix = self.log_transition(u, dt)
        matrix = matrix if z.ndim > 1 or matrix.ndim == 2 else matrix[0]
        return OneHotCategorical(logits=log_row(z, matrix), validate_args=False)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | z_t = z, u_t)`.

        Args:
            z: One-hot, `(*axes, num_states)`.
            u: `(*axes, input)`.
        """
        return self.family.distribution(z, u)

    def emission_after(self, z: Tensor, past: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | z_t = z, y_{t-1}, ...)` for families that read earlier observations.

        Args:
            z: One-hot, `(*axes, num_states)`.
            past: The last observations, oldest first, `(*axes, lags, obs)`.
            u: `(*axes, input)`.
        """
        return self.family.distribution_after(z, past, u)

    def readable(self) -> dict[str, Readable]:
        """Return probabilities and emissions as a person reads them, by what holds them.

        Weights of inputs are shown less their mean over the arriving states, which says nothing.
        """
        found = {
            f"family.{key}": part._replace(name=f"emission.{part.name}")
            for key, part in self.family.readable().items()
        }
        found["initial_logits"] = shares("initial", self.initial_logits)
        if self.transition_function is None:
            weight = self.transition_weight
            at_zero = "" if weight is None else " at u = 0"
            found["transition_logits"] = shares(f"transition{at_zero}", self.transition_logits)
            if weight is not None:
                free = weight.numel() - weight[:, 0].numel()
                centred = weight - weight.mean(1, keepdim=True)
                found["transition_weight"] = Readable("transition weight", centred, count=free)
        return found

    @property
    def has_closed_form(self) -> bool:
        """Whether `maximize` sets every free parameter at once."""
        return self.transition_function is None and self.transition_weight is None

    @property
    def lags(self) -> int:
        """How many earlier observations the emission reads."""
        return self.family.lags

    def initialize_from(self, series: Series) -> None:
        """Spread the emissions of the states over the data, by a few steps of k-means."""
        self.family.initialize(series.y, series.u, torch.Generator().manual_seed(0))

    def restart(self, series: Series, generator: torch.Generator) -> None:
        """Draw new starting values: emissions from clusters of the data, probabilities at random.

        Args:
            series: The data.
            generator: Source of randomness.

        Raises:
            ValueError: `series.y` holds an observation that no state can emit.
        """
        self.family.check(series.y)
        self.family.initialize(series.y, series.u, generator)
        with torch.no_grad():
            for name in ("initial_logits", "transition_logits"):
                logits = self._parameters.get(name)
                if logits is None or not logits.requires_grad:
                    continue
                n = logits.shape[-1]
                noise = 0.2 * torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
                logits.copy_(noise.to(logits.device))
                if logits.ndim == 2 and n > 1:
                    logits.diagonal().add_(torch.log(torch.tensor(9.0 * (n - 1))))

    def maximize(self, series: Series, first: Tensor, pairs: Tensor, smoothed: Tensor) -> None:
        """Set every free parameter to the maximum of the expected log joint density.

        Args:
            series: The data.
            first: `p(z_1 | y)`, `(*batch, num_states)`.
            pairs: `p(z_{t-1}, z_t | y)`, `(*batch, time, num_states, num_states)`, or its sum
                over time and series, as `ClosedFormEM` says.
            smoothed: `p(z_t | y)`, `(*batch, time, num_states)`.

        Transitions that inputs or a function drive have no closed form: they climb by L-BFGS,
        and never fall.
        """
        n = self.state_dim
        if self.has_closed_form:
            self._count_transitions(pairs)
        else:
            self._climb_transitions(series, pairs)
        with torch.no_grad():
            if self.initial_logits.requires_grad:
                share = first.reshape(-1, n).mean(0)
                self.initial_logits.copy_(_safe_log(share))
            self.family.maximize(series.y, series.u, smoothed)

    def _count_transitions(self, pairs: Tensor) -> None:
        if not self.transition_logits.requires_grad:
            return
        with torch.no_grad():
            counts = pairs.reshape(-1, *pairs.shape[-2:]).sum(0)
            total = counts.sum(-1, keepdim=True)
            known = total > 0
            update = _safe_log(counts / torch.where(known, total, 1.0))
            self.transition_logits.copy_(torch.where(known, update, self.transition_logits))

    def _climb_transitions(self, series: Series, pairs: Tensor) -> None:
        """Raise `sum pairs * log_transition`, a weighted multinomial regression."""
        free = [p for p in self._transition_parameters() if p.requires_grad]
        if not free:
            return
        before = [p.detach().clone() for p in free]
        optimizer = torch.optim.LBFGS(free, max_iter=20, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            logs = self.log_transition(series.u, series.dt)
            expected = pairs > 0
            terms = pairs * torch.where(expected, logs.expand(pairs.shape), 0.0)
            return -torch.where(expected, terms, 0.0).sum()

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        start = loss().detach()
        optimizer.step(closure)  # type: ignore[arg-type]
        optimizer.zero_grad()
        with torch.no_grad():
            if not bool(loss() <= start):
                for parameter, value in zip(free, before, strict=True):
                    parameter.copy_(value)

    def _transition_parameters(self) -> list[nn.Parameter]:
        """Return what drives the transitions: logits and weights, or a module's parameters."""
        if self.transition_function is not None:
            driver = self.transition_function
            return list(driver.parameters()) if isinstance(driver, nn.Module) else []
        named = (self.transition_logits, self.transition_weight)
        return [p for p in named if isinstance(p, nn.Parameter)]

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states."""
        return tuple(f"state{i}" for i in range(self.state_dim))

    def _hold(self, name: str, fixed: Tensor | None, start: Tensor) -> None:
        if fixed is None:
            setattr(self, name, nn.Parameter(start.log()))
            return
        probs = torch.as_tensor(fixed, dtype=start.dtype)
        total = probs.sum(-1)
        bad = probs.shape != start.shape or bool((probs < 0).any())
        if bad or not torch.allclose(total, torch.ones_like(total)):
            raise ValueError(
                f"`{name.split('_')[0]}` must hold probabilities of shape {tuple(start.shape)} "
                f"that sum to one, got shape {tuple(probs.shape)} and sums {total.tolist()}."
            )
        self.register_buffer(name, probs.log())


def _log(probs: Tensor) -> Tensor:
    """Return the logarithm, with a gradient of zero instead of NaN where `probs` is zero."""
    possible = probs > 0
    return torch.where(possible, torch.where(possible, probs, 1.0).log(), -torch.inf)


def _safe_log(probs: Tensor) -> Tensor:
    # Not zero: a state that looked impossible may become possible again. Not so small either that
    # predictions of it would have to be made in logarithms.
    return probs.clamp_min(1e-200 if probs.dtype == torch.float64 else 1e-30).log()
