"""Exact inference for models with finitely many states."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...core.abilities import ReadsEarlierObservations
from ...core.lazy_results import lazy_filtered, lazy_smoothed
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.results import Filtered, Forecast, Smoothed
from ..simulation.conditionals import covariance
from ..simulation.simulate import observations_in_turn
from . import hidden_markov_chain as chains
from . import hidden_markov_scan as scan
from .hidden_markov_online import OnlineForward
from .hidden_markov_results import (
    Backend,
    Chain,
    Expected,
    chain_of,
    cross_cov,
    draws_of,
    filtered_of,
    pairs_of,
    spread,
)
from .hidden_markov_results import forward_backward as forward_backward
from .required import discrete_model, log_transitions


@dataclass(frozen=True)
class ForwardBackward:
    """Exact filter, smoother, decoder and sampler for hidden Markov models.

    States are one-hot vectors, so means are probabilities and covariances `diag(p) - p p'`.

    Args:
        backend: `"sequential"` is compiled for CPUs; `"scan"` takes `O(log T)` parallel steps on
            any device and `state` times the work.
        checkpoints: Keep the filter at every `sqrt(T)`-th step alone, and run it twice, where
            gradients, EM or smoothing go back over a long series; sequential.

    Source: Rabiner (1989), Proceedings of the IEEE 77(2); Viterbi (1967).
    """

    backend: Backend = "sequential"
    checkpoints: bool = False

    def run(self, model: StateSpaceModel, series: Series) -> Chain:
        """Return all probabilities at once, without a gradient."""
        with torch.no_grad():
            pi, A, B, batch = _logs(model, series)
            return chain_of(pi, A, B, batch, self.backend)

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return the probabilities of states given the past, with and without the present.

        Covariances are made when they are read.
        """
        with torch.no_grad():
            pi, A, B, batch = _logs(model, series)
            if self.backend == "scan":
                before, after, score = scan.forward(pi, A, B)
                found = before.exp(), after.exp(), score
            else:
                found = filtered_of(chains.filter_all(chains.as_logs(pi, A, B)), B)
        p, q, score = (part.reshape(*batch, *part.shape[1:]) for part in found)
        score = _counted(score, series)
        spreads = partial(spread, q), partial(spread, p)
        return lazy_filtered(q, spreads[0], p, spreads[1], score, _impossible(score))

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return the probabilities of states given all of `y`.

        Covariances are made when they are read; until then `log p(y_t | z_t)` is kept for them.
        """
        if self.backend == "scan":
            chain = self.run(model, series)
            p, score = chain.smoothed, chain.log_likelihood
            cross = partial(cross_cov, p, partial(_field, chain, 3))
        else:
            with torch.no_grad():
                pi, A, B, batch = _logs(model, series)
                logs = chains.as_logs(pi, A, B)
                found = chains.backward(logs, block=chains.block_size(logs, self.checkpoints))
            p, score = (
                torch.from_numpy(x).to(B).reshape(*batch, *x.shape[1:])
                for x in (found.states, found.score)
            )
            p = p.clamp_(min=0.0)  # A forbidden state keeps some -1e-17 of round-off otherwise.
            cross = partial(cross_cov, p, partial(pairs_of, logs, B[..., :0], batch))
        score = _counted(score, series)
        return lazy_smoothed(p, partial(spread, p), cross, score, _impossible(score))

    def expect(self, model: StateSpaceModel, series: Series) -> Expected:
        """Return what an EM step reads.

        `pairs` are summed over time and series, as entry 1 of a series of two steps, where all
        transitions are alike; else they are `(*batch, time, state, state)`.
        """
        with torch.no_grad():
            pi, A, B, batch = _logs(model, series)
            if self.backend == "scan":
                chain = chain_of(pi, A, B, batch, "scan")
                first = chain.smoothed[..., 0, :]
                return Expected(first, chain.pairs, chain.smoothed, chain.log_likelihood)
            logs = chains.as_logs(pi, A, B)
            alike = A.shape[:2] == (1, 1)
            sizes = (1, 1) if alike else tuple(B.shape[:2])
            block = chains.block_size(logs, self.checkpoints)
            found = chains.backward(logs, sizes, block=block)
            parts = (torch.from_numpy(x).to(B) for x in found)
        first, smoothed, pairs, score = (
            part if i == 2 else part.reshape(*batch, *part.shape[1:])
            for i, part in enumerate(parts)
        )
        if alike:
            pairs = torch.cat((torch.zeros_like(pairs), pairs), 1)[0]
        else:
            pairs = pairs.reshape(*batch, *pairs.shape[1:])
        return Expected(first, pairs, smoothed, score)

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`, differentiable."""
        pi, A, B, batch = _logs(model, series)
        score = cast(Tensor, _Score.apply(pi, A, B, self.backend, self.checkpoints))
        return _counted(score.reshape(*batch, -1), series)

    def viterbi(self, model: StateSpaceModel, series: Series) -> tuple[Tensor, Tensor]:
        """Return the most probable path.

        Returns:
            State indices, `(*batch, time)`, and the log of the path's joint density with `y`,
            `(*batch,)`.
        """
        from . import hidden_markov_path_kernels as kernels

        with torch.no_grad():
            pi, A, B, batch = _logs(model, series)
        path, best = kernels.viterbi(*(chains.as_array(x) for x in (pi, A, B)))
        paths = torch.from_numpy(path).to(B.device).reshape(*batch, -1)
        return paths, torch.from_numpy(best).to(B).reshape(batch)

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths as one-hot vectors, `(num_samples, *batch, time, state)`."""
        with torch.no_grad():
            pi, A, B, batch = _logs(model, series)
            logs = chains.as_logs(pi, A, B)
            return draws_of(logs, chains.filter_all(logs), B, batch, 0, num_samples, generator)

    def online(self, model: StateSpaceModel) -> OnlineForward:
        """Return a filter that takes one observation at a time."""
        return OnlineForward(model)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps: exact moments of the mixture, and draws of it.

        A mixture is not Gaussian, so draws are always taken; intervals come from them.
        """
        count, first = num_samples or 1_000, series.time - horizon
        u = None if series.u is None else series.u[..., first:, :]
        with torch.no_grad(), seeded(generator):
            pi, A, B, batch = _logs(model, series)
            logs = chains.as_logs(pi, A, B)
            forward = chains.filter_all(logs)
            p = filtered_of(forward, B)[0][:, first:].reshape(*batch, horizon, -1)
            z = draws_of(logs, forward, B, batch, first, count)
            if isinstance(model, ReadsEarlierObservations) and model.lags:
                past = series.y[..., max(first - model.lags, 0) : first, :]
                y = observations_in_turn(model, z, u, past.expand(count, *past.shape))
                left = y - y.mean(0)
                cov = torch.einsum("k...i,k...j->...ij", left, left) / max(count - 1, 1)
                return Forecast(y.mean(0), cov, y, p, spread(p), z)
            y = model.emission(z, None if u is None else u.expand(count, *u.shape)).sample()
            return Forecast(*_mixture(model, p, u), y, p, spread(p), z)


def _field(chain: Chain, index: int) -> Tensor:
    return chain[index]


class _Score(torch.autograd.Function):
    """Log-likelihood per step; its gradient is one backward recursion, zeros and all."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        pi: Tensor,
        A: Tensor,
        B: Tensor,
        backend: Backend,
        checkpoints: bool,
    ) -> Tensor:
        ctx.save_for_backward(pi, A, B)
        ctx.passed = None
        if backend == "scan":
            return scan.forward(pi, A, B)[2]
        logs = chains.as_logs(pi, A, B)
        if checkpoints or not any(ctx.needs_input_grad):
            return torch.from_numpy(chains.score(logs)).to(B)
        ctx.passed = logs, chains.filter_all(logs)
        return torch.from_numpy(ctx.passed[1].score).to(B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        pi, A, B = ctx.saved_tensors
        logs, passed = ctx.passed or (chains.as_logs(pi, A, B), None)
        pairs = tuple(A.shape[:2]) if ctx.needs_input_grad[1] else ()
        block = chains.block_size(logs, checkpoints=True)
        found = chains.backward(logs, pairs, chains.as_array(weight), passed, block)
        d_pi, d_B = found.first.sum(0), found.states
        d_A = torch.from_numpy(found.pairs).to(A) if pairs else None
        return torch.from_numpy(d_pi).to(pi), d_A, torch.from_numpy(d_B).to(B), None, None


def _mixture(model: StateSpaceModel, p: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of `y` under state probabilities `p`, `(*batch, time, state)`."""
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    states = eye.expand(*p.shape[:-1], *eye.shape).movedim(-2, 0)
    emission = model.emission(states, None if u is None else u.expand(len(eye), *u.shape))
    mean = torch.einsum("...tk,k...ti->...ti", p, emission.mean)
    left = emission.mean - mean
    within = covariance(emission)
    cov = torch.einsum("...tk,k...ti,k...tj->...tij", p, left, left)
    return mean, cov + torch.einsum("...tk,k...tij->...tij", p, within)


def _logs(model: StateSpaceModel, series: Series) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
    """Return `pi`, `A` and `B` with one flat batch axis, and the shape it came from."""
    discrete = discrete_model(model)
    if not series.time:
        raise ValueError("`y` has no time step. Pass one observation or more.")
    A = log_transitions(discrete, series.u, series.dt)
    B = discrete.log_emission(series.y, series.u)
    batch = B.shape[:-2]
    flat = A if A.ndim == 4 else A.reshape(-1, *A.shape[-3:])
    if A.ndim > 4:
        flat = A.expand(*batch, *A.shape[-3:]).reshape(-1, *A.shape[-3:])
    return discrete.log_initial(), flat, B.reshape(batch.numel(), *B.shape[-2:]), batch


def _impossible(score: Tensor) -> Tensor:
    return ~torch.isfinite(score).all(-1)


def _counted(score: Tensor, series: Series) -> Tensor:
    """Set scores of steps without an observation to 0, of which round-off is left otherwise."""
    unseen = torch.isnan(series.y).all(-1)
    return torch.where(unseen, score.new_zeros(()), score)
