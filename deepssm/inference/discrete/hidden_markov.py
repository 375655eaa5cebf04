"""Exact inference for models with finitely many states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...core.abilities import ReadsEarlierObservations
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.results import Filtered, Forecast, Smoothed
from ...ops.arrays import Batch
from ..simulation.conditionals import covariance
from ..simulation.simulate import observations_in_turn
from . import hidden_markov_scan as scan
from .hidden_markov_online import OnlineForward
from .required import discrete_model, log_transitions

Backend = Literal["sequential", "scan"]


class Chain(NamedTuple):
    """What forward-backward finds, `(*batch, time, state)`; `pairs` has one state axis more."""

    predicted: Tensor
    filtered: Tensor
    smoothed: Tensor
    pairs: Tensor
    log_likelihood: Tensor


@dataclass(frozen=True)
class ForwardBackward:
    """Exact filter, smoother, decoder and sampler for hidden Markov models.

    States are one-hot vectors, so means are probabilities and covariances `diag(p) - p p'`.

    Args:
        backend: `"sequential"` is compiled for CPUs; `"scan"` takes `O(log T)` parallel steps on
            any device and `state` times the work.

    Source: Rabiner (1989), Proceedings of the IEEE 77(2); Viterbi (1967).
    """

    backend: Backend = "sequential"

    def run(self, model: StateSpaceModel, series: Series) -> Chain:
        """Return all probabilities at once, without a gradient."""
        with torch.no_grad():
            pi, A, B, batch = _logs(model, series)
            return _chain(pi, A, B, batch, self.backend)

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return the probabilities of states given the past, with and without the present."""
        chain = self.run(model, series)
        moments = (
            chain.filtered,
            _spread(chain.filtered),
            chain.predicted,
            _spread(chain.predicted),
        )
        return Filtered(*moments, chain.log_likelihood, _impossible(chain))

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return the probabilities of states given all of `y`."""
        chain = self.run(model, series)
        p = chain.smoothed
        cross = torch.zeros_like(chain.pairs)
        outer = p[..., 1:, :, None] * p[..., :-1, None, :]
        cross[..., 1:, :, :] = chain.pairs[..., 1:, :, :].mT - outer
        return Smoothed(p, _spread(p), cross, chain.log_likelihood, _impossible(chain))

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`, differentiable."""
        pi, A, B, batch = _logs(model, series)
        score = cast(Tensor, _Score.apply(pi, A, B, self.backend))
        return score.reshape(*batch, -1)

    def viterbi(self, model: StateSpaceModel, series: Series) -> tuple[Tensor, Tensor]:
        """Return the most probable path.

        Returns:
            State indices, `(*batch, time)`, and the log of the path's joint density with `y`,
            `(*batch,)`.
        """
        from . import hidden_markov_kernels as kernels

        with torch.no_grad():
            pi, A, B, batch = _logs(model, series)
        path, best = kernels.viterbi(*(_array(x) for x in (pi, A, B)))
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
            _, A, B, batch = _logs(model, series)
            filtered = self.run(model, series).filtered.reshape(B.shape).log()
            path = []
            logits = filtered[:, -1].expand(num_samples, *filtered[:, -1].shape)
            for t in range(B.shape[1] - 1, -1, -1):
                now = _draw(logits, generator)
                path.append(now)
                if t > 0:
                    a = A[:, min(t, A.shape[1] - 1)].expand(len(B), -1, -1)
                    into = a.mT[torch.arange(len(B), device=B.device), now]
                    logits = filtered[:, t - 1] + into
            index = torch.stack(path[::-1], -1)
            one_hot = torch.nn.functional.one_hot(index, B.shape[-1]).to(B.dtype)
        return one_hot.reshape(num_samples, *batch, *B.shape[1:])

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
        count = num_samples or 1_000
        chain = self.run(model, series)
        p = chain.predicted[..., -horizon:, :]
        u = None if series.u is None else series.u[..., -horizon:, :]
        with torch.no_grad(), seeded(generator):
            z = self.sample_posterior(model, series, count)[..., -horizon:, :]
            if isinstance(model, ReadsEarlierObservations) and model.lags:
                known = series.y[..., : series.time - horizon, :]
                past = known[..., -model.lags :, :]
                y = observations_in_turn(model, z, u, past.expand(count, *past.shape))
                left = y - y.mean(0)
                cov = torch.einsum("k...i,k...j->...ij", left, left) / (count - 1)
                return Forecast(y.mean(0), cov, y, p, _spread(p), z)
            y = model.emission(z, None if u is None else u.expand(count, *u.shape)).sample()
            return Forecast(*_mixture(model, p, u), y, p, _spread(p), z)


def forward_backward(pi: Tensor, A: Tensor, B: Tensor) -> Chain:
    """Return all probabilities of a chain given by its logarithms, without a gradient.

    Args:
        pi: Log-probabilities of the first state, `(state,)`.
        A: Log transition matrices, `(time or 1, state, state)`, common to all series.
        B: Log-likelihoods of the states, `(*batch, time, state)`.
    """
    with torch.no_grad():
        flat = B.reshape(-1, *B.shape[-2:])
        return _chain(pi, A[None], flat, B.shape[:-2], "sequential")


def _chain(pi: Tensor, A: Tensor, B: Tensor, batch: torch.Size, backend: Backend) -> Chain:
    if backend == "scan":
        predicted, filtered, score = scan.forward(pi, A, B)
        smoothed, pairs = scan.backward(A, scan.possible(B, torch.isinf(score)), filtered)
    else:
        predicted, filtered, score, smoothed, pairs = _compiled(pi, A, B)
    parts = (predicted.exp(), filtered.exp(), smoothed.exp(), pairs, score)
    return Chain(*(part.reshape(*batch, *part.shape[1:]) for part in parts))


class _Score(torch.autograd.Function):
    """Log-likelihood per step; its gradient is one backward recursion, zeros and all."""

    @staticmethod
    def forward(ctx: Any, pi: Tensor, A: Tensor, B: Tensor, backend: Backend) -> Tensor:  # noqa: ANN401
        predicted, filtered, score = _forward(pi, A, B, backend)
        ctx.save_for_backward(A, predicted, filtered)
        return score

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        from . import hidden_markov_kernels as kernels

        A, predicted, filtered = ctx.saved_tensors
        arrays = (_array(x) for x in (A, predicted, filtered, weight))
        d_pi, d_A, d_B = (torch.from_numpy(x).to(A) for x in kernels.adjoint(*arrays))
        return d_pi, d_A, d_B, None


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


def _forward(pi: Tensor, A: Tensor, B: Tensor, backend: Backend) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "scan":
        return scan.forward(pi, A, B)
    from . import hidden_markov_kernels as kernels

    predicted, filtered, score = kernels.forward(*(_array(x) for x in (pi, A, B)))
    return (
        torch.from_numpy(predicted).to(B),
        torch.from_numpy(filtered).to(B),
        torch.from_numpy(score).to(B),
    )


def _compiled(pi: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    import numpy as np

    from . import hidden_markov_kernels as kernels

    arrays = tuple(_array(x) for x in (pi, A, B))
    predicted, filtered, score = kernels.forward(*arrays)
    pairs = np.zeros((*arrays[2].shape, B.shape[-1]))
    smoothed = kernels.backward(arrays[1], predicted, filtered, pairs)
    results = (predicted, filtered, score, smoothed, pairs)
    first, second, third, fourth, fifth = (torch.from_numpy(x).to(B) for x in results)
    return first, second, third, fourth, fifth


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


def _array(x: Tensor) -> Batch:
    return x.detach().cpu().double().contiguous().numpy()


def _draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.rand(logits.shape, generator=generator, dtype=logits.dtype, device=logits.device)
    return (logits - (-noise.clamp_min(1e-300).log()).log()).argmax(-1)


def _spread(p: Tensor) -> Tensor:
    # A variance is `p_i` times the sum of the others: `p_i - p_i^2` may round to below zero.
    between = p[..., :, None] * p[..., None, :]
    between = between - torch.diag_embed(between.diagonal(dim1=-2, dim2=-1))
    return torch.diag_embed(between.sum(-1)) - between


def _impossible(chain: Chain) -> Tensor:
    return ~torch.isfinite(chain.log_likelihood).all(-1)
