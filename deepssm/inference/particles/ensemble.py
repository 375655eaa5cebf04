"""Ensemble Kalman filters and smoothers: Gaussian updates of a cloud of states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.gaussian import outer, standard_normal_log_prob
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import draw, seeded
from ...core.results import Filtered, Forecast, Smoothed
from ..gaussian.rules import noise_factor
from ..simulation.angles import average
from ..simulation.conditionals import Conditionals, bind
from ..simulation.drawn_forecasts import DrawnForecasts
from ..simulation.randomness import source
from ..simulation.visibility import require_visible


class _Clouds(NamedTuple):
    """Ensembles over time, each `(size, *batch, state)`, and the log-likelihood."""

    predicted: list[Tensor]
    filtered: list[Tensor]
    log_likelihood: list[Tensor]


@checked
@dataclass(frozen=True)
class Ensemble(DrawnForecasts):
    """Ensemble Kalman filter and smoother, for states too large for covariances.

    `"square_root"` moves the ensemble by a symmetric square root (ETKF), `"deterministic"` by
    half the gain (DEnKF), `"stochastic"` by perturbed observations. The first and the last tend to
    the Kalman filter on linear models as `1 / sqrt(size)`; half gains leave the covariance too
    wide by a quarter of `K H P H' K'`, which acts as an inflation and does not vanish.

    Args:
        size: Number of members.
        update: How observations move members.
        inflation: Factor on the spread of predicted members about their mean, 1 or a bit more.
        localization: Tapers of `Cov(z, y)`, `(state, obs)`, and of `Cov(y)`, `(obs, obs)`, such as
            `gaspari_cohn` of distances; not for `"square_root"`.
        seed: Of all random numbers; the same seed gives the same ensemble.
        generator: Source of them in the place of `seed`; it advances from call to call.

    Source: Evensen (1994); Bishop, Etherton & Majumdar (2001) ETKF; Sakov & Oke (2008) DEnKF;
        Raanes (2016), QJRMS 142, for the smoother.
    """

    size: int = 100
    update: Literal["square_root", "deterministic", "stochastic"] = "square_root"
    inflation: float = 1.0
    localization: tuple[Tensor, Tensor] | None = None
    seed: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.size < 2:
            raise ValueError(f"`size` must be 2 or more, got {self.size}.")
        if not self.inflation >= 1:
            raise ValueError(f"`inflation` must be 1 or more, got {self.inflation}.")
        if self.localization is not None and self.update == "square_root":
            raise ValueError(
                "`localization` does not fit `update='square_root'`, whose transform is global: "
                "use 'deterministic' or 'stochastic'."
            )

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return means and covariances of the ensembles before and after each observation."""
        clouds = self._pass(model, series)
        predicted, filtered = torch.stack(clouds.predicted, -2), torch.stack(clouds.filtered, -2)
        return Filtered(
            *_summary(filtered), *_summary(predicted), *_likelihood_and_check(clouds, series)
        )

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return means and covariances of the smoothed ensemble."""
        clouds = self._pass(model, series)
        members = _smoothed(clouds)
        mean, cov = _summary(members)
        anomalies = members - mean
        cross = torch.einsum(
            "k...ti,k...tj->...tij", anomalies[..., 1:, :], anomalies[..., :-1, :]
        )
        cross = torch.cat((torch.zeros_like(cov[..., :1, :, :]), cross / (self.size - 1)), -3)
        return Smoothed(mean, cov, cross, *_likelihood_and_check(clouds, series))

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose smoothed members, with replacement; raise `size` for more distinct paths."""
        members = _smoothed(self._pass(model, series))
        chosen = torch.randint(self.size, (num_samples,), generator=generator)
        return members[chosen.to(members.device)]

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Move the ensemble through the last `horizon` steps, whose `y` is NaN.

        A model that reads its last observation runs on from members, each of which reads its own.
        """
        if model.reads_past:
            return super().forecast(model, series, horizon, num_samples, generator)
        conditionals, clouds = bind(model, series), self._pass(model, series)
        means, covs, observations = [], [], []
        with seeded(generator):
            for t in range(series.time - horizon, series.time):
                emission = conditionals.emission(clouds.filtered[t], t)
                mean, cov = _summary(emission.mean[..., None, :])
                means.append(mean[..., 0, :])
                covs.append(cov[..., 0, :, :] + outer(_noise_of(emission)))
                observations.append(emission.sample())
            states, samples = (
                torch.stack(clouds.filtered[-horizon:], -2),
                torch.stack(observations, -2),
            )
            state_mean, state_cov = _summary(states)
            mean, cov = torch.stack(means, -2), torch.stack(covs, -3)
            if num_samples is None:
                return Forecast(mean, cov, None, state_mean, state_cov)
            chosen = torch.randint(self.size, (num_samples,)).to(states.device)
        return Forecast(mean, cov, samples[chosen], state_mean, state_cov, states[chosen])

    def _pass(self, model: StateSpaceModel, series: Series) -> _Clouds:
        require_visible(model, series, "Ensemble")
        conditionals = bind(model, series)
        observed = ~torch.isnan(series.y)
        y = torch.where(observed, series.y, series.y.new_zeros(()))
        clouds = _Clouds([], [], [])
        with seeded(source(self.generator, self.seed)):
            for t in range(series.time):
                if t == 0:
                    members = _start(conditionals, self.size, series.batch_shape)
                else:
                    members = draw(conditionals.transition(clouds.filtered[-1], t))
                members = _on_one_turn(members, conditionals)
                mean = members.mean(0)
                members = mean + self.inflation * (members - mean)
                clouds.predicted.append(members)
                members, score = self._analyse(
                    conditionals, members, t, y[..., t, :], observed[..., t, :]
                )
                clouds.filtered.append(members)
                clouds.log_likelihood.append(score)
        return clouds

    def _analyse(
        self, conditionals: Conditionals, members: Tensor, t: int, y: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        emission = conditionals.emission(members, t)
        expected = emission.mean
        centre = average(expected, conditionals.wrap_obs)
        scale = (self.size - 1) ** -0.5
        zero = y.new_zeros(())
        spread = torch.where(observed, conditionals.wrap_obs(expected - centre), zero)
        Y = scale * spread.movedim(0, -1)
        A = scale * (members - members.mean(0)).movedim(0, -1)
        LR = _masked_noise(_noise_of(emission), observed)
        residual = torch.where(observed, conditionals.wrap_obs(y - centre), zero)
        cov, cross = outer(Y), A @ Y.mT
        if self.localization is not None:
            taper_cross, taper = (x.to(members) for x in self.localization)
            cov, cross = taper * cov, taper_cross * cross
        S = _invertible(cov + outer(LR))
        white = torch.linalg.solve_triangular(S, residual[..., None], upper=False)[..., 0]
        score = standard_normal_log_prob(white, observed.sum(-1))
        score = score - S.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        gain = torch.cholesky_solve(cross.mT, S).mT
        shift = (gain @ residual[..., None])[..., 0]
        if self.update == "stochastic":
            noise = torch.randn_like(spread.new_empty(*spread.shape[:-1], LR.shape[-1]))
            error = residual - spread + torch.einsum("...ij,k...j->k...i", LR, noise)
            error = torch.where(observed, error, zero)
            return members + torch.einsum("...ij,k...j->k...i", gain, error), score
        if self.update == "deterministic":
            back = 0.5 * torch.einsum("...ij,k...j->k...i", gain, spread)
            return members + shift - back, score
        return members + shift + _contraction(A, Y, LR).movedim(-1, 0) / scale, score


def gaspari_cohn(distance: Tensor) -> Tensor:
    """Return the compactly supported correlation that looks like a Gaussian.

    Args:
        distance: In units of the half-width; the result is 1 at 0 and exactly 0 from 2 on.

    Source: Gaspari & Cohn (1999), QJRMS 125, equation 4.10.
    """
    r = distance.abs()
    near = 1 - 5 / 3 * r**2 + 5 / 8 * r**3 + r**4 / 2 - r**5 / 4
    s = r.clamp_min(1.0)
    far = 4 - 5 * s + 5 / 3 * s**2 + 5 / 8 * s**3 - s**4 / 2 + s**5 / 12 - 2 / (3 * s)
    return torch.where(r <= 1, near, torch.where(r < 2, far, torch.zeros_like(r)))


def _start(conditionals: Conditionals, size: int, batch: torch.Size) -> Tensor:
    initial = conditionals.initial
    missing = len(batch) - len(initial.batch_shape)
    return (
        initial.expand(torch.Size((size, *batch))).sample() if missing else initial.sample((size,))
    )  # type: ignore[arg-type]


def _on_one_turn(members: Tensor, conditionals: Conditionals) -> Tensor:
    """Move angles by whole turns to within half a turn of their mean direction."""
    centre = average(members, conditionals.wrap_state)
    return centre + conditionals.wrap_state(members - centre)


def _noise_of(distribution: torch.distributions.Distribution) -> Tensor:
    size = distribution.batch_shape[0]
    return noise_factor(distribution, torch.full((size,), 1 / size, dtype=distribution.mean.dtype))


def _masked_noise(factor: Tensor, observed: Tensor) -> Tensor:
    rows = torch.where(observed[..., None], factor, factor.new_zeros(()))
    return torch.cat((rows, torch.diag_embed((~observed).to(factor.dtype))), -1)


def _invertible(cov: Tensor) -> Tensor:
    """Return the Cholesky factor of `R`, or of `R` and what the members differ by.

    Raises:
        ValueError: It has none: some observation is without noise.
    """
    factor, info = torch.linalg.cholesky_ex(cov)
    if bool((info != 0).any()):
        raise ValueError(
            "`R` must be invertible for `Ensemble`: a few members cannot meet an observation "
            "without noise. Give every observation some, or use `Unscented()` or `Kalman()`."
        )
    return factor


def _contraction(A: Tensor, Y: Tensor, LR: Tensor) -> Tensor:
    """Return `A (T - I)`, `T = (I + Y' R^-1 Y)^(-1/2)` symmetric, so that the mean stays put."""
    R = _invertible(outer(LR))
    _, s, Vh = torch.linalg.svd(
        torch.linalg.solve_triangular(R, Y, upper=False), full_matrices=False
    )
    return (A @ Vh.mT * ((1 + s * s).rsqrt() - 1)[..., None, :]) @ Vh


def _smoothed(clouds: _Clouds) -> Tensor:
    """Walk back: each member moves as far as its own future did, by the ensemble's regression."""
    members = [clouds.filtered[-1]]
    for t in range(len(clouds.filtered) - 2, -1, -1):
        now, later = clouds.filtered[t], clouds.predicted[t + 1]
        A = (now - now.mean(0)).movedim(0, -1)
        B = (later - later.mean(0)).movedim(0, -1)
        gain = A @ torch.linalg.pinv(B)
        moved = members[-1] - later
        members.append(now + torch.einsum("...ij,k...j->k...i", gain, moved))
    return torch.stack(members[::-1], -2)


def _summary(members: Tensor) -> tuple[Tensor, Tensor]:
    mean = members.mean(0)
    anomalies = members - mean
    cov = torch.einsum("k...i,k...j->...ij", anomalies, anomalies) / (len(members) - 1)
    return mean, cov


def _likelihood_and_check(clouds: _Clouds, series: Series) -> tuple[Tensor, Tensor]:
    score = torch.stack(clouds.log_likelihood, -1)
    return score, ~torch.isfinite(score).all(-1)
