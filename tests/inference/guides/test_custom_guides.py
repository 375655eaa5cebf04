"""What a stranger writes from the contracts alone: guides, an encoder, a combiner, objectives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.transforms import ReshapeTransform

import deepssm as ds
from deepssm.core.guides import CombinerStep
from deepssm.core.model import LinearParameters, Series, StateSpaceModel
from deepssm.core.pyro_sites import observed_log_prob, observed_steps
from deepssm.inference import (
    SVI,
    Amortized,
    FlowGuide,
    ImportanceWeighted,
    MaskedSuffix,
    ParticleBound,
    SmoothingGuide,
    as_posterior,
    bound,
    divergence_by_component,
    importance_log_likelihood,
    refine,
)
from deepssm.inference.guides.posterior import StepwisePosterior, prior_of

from ... import oracles
from ...deep_models import gappy_series, linear_deep, linear_parameters

Build = Callable[[Tensor, Tensor], Distribution]


def _normal(mean: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(mean, scale), 2)


def _full(mean: Tensor, scale: Tensor) -> Distribution:
    chol = torch.diag_embed(scale) + torch.diag_embed(0.3 * scale[..., 1:], -1)
    return Independent(MultivariateNormal(mean, scale_tril=chol), 1)


def _laplace(mean: Tensor, scale: Tensor) -> Distribution:
    return Independent(Laplace(mean, scale), 2)


def _joint(mean: Tensor, scale: Tensor) -> Distribution:
    """Steps that depend on one another in a way that nobody tells."""
    rows = mean.shape[-2:]
    chol = torch.diag_embed(scale.flatten(-2)) + torch.diag_embed(
        0.4 * scale.flatten(-2)[..., 2:], -2
    )
    flat = MultivariateNormal(mean.flatten(-2), scale_tril=chol)
    shape = torch.Size((rows.numel(),))
    return TransformedDistribution(flat, ReshapeTransform(shape, rows))


KINDS: dict[str, Build] = {
    "normal": _normal,
    "full": _full,
    "laplace": _laplace,
    "joint": _joint,
}
each_kind = pytest.mark.parametrize("kind", KINDS)


class Plain(nn.Module):
    """The smallest guide: two linear maps of an observation, and nothing else."""

    def __init__(self, obs: int, state: int, build: Build = _normal) -> None:
        super().__init__()
        self.mean, self.raw = nn.Linear(obs, state), nn.Linear(obs, state)
        self.build = build

    def forward(self, model: StateSpaceModel, series: Series) -> Distribution:
        y = series.y.nan_to_num(0.0)
        return self.build(self.mean(y), nn.functional.softplus(self.raw(y)) + 1e-3)


def _plain(kind: str = "normal", seed: int = 0) -> Plain:
    torch.manual_seed(seed)
    return Plain(2, 2, KINDS[kind]).double()


@each_kind
@pytest.mark.parametrize("batch", [(3,), ()])
def test_a_guide_of_one_method_does_all_that_a_fit_is_asked(
    kind: str, batch: tuple[int, ...]
) -> None:
    """Ragged, with gaps, with and without a batch axis."""
    model = linear_deep()
    series = gappy_series(model)
    y, u = (series.y, series.u) if batch else (series.y[1], series.u[1])  # type: ignore[index]
    guide = _plain(kind)
    before = guide.mean.weight.clone()
    method = SVI(guide, steps=12, batch_size=2, report_every=6)
    fit = ds.fit(model, y, u, method=method, progress=False)
    assert isinstance(fit.method, Amortized) and isinstance(fit.method.guide, type(guide))
    assert not torch.equal(before, guide.mean.weight)
    assert fit.smooth().mean.shape == fit.filter().mean.shape == (*batch, 12, 2)
    assert fit.sample_posterior(5).shape == (5, *batch, 12, 2)
    assert fit.log_likelihood().shape == (*batch, 12)
    ahead = torch.zeros(*batch, 4, 1, dtype=torch.float64)
    assert fit.forecast(4, u_future=ahead, num_samples=7).samples.shape == (7, *batch, 4, 2)  # type: ignore[union-attr]
    filled = fit.impute(6)
    seen = ~torch.isnan(y)
    assert torch.equal(filled.mean[seen], y[seen]) and torch.isfinite(filled.mean).all()
    shares = divergence_by_component(model, guide, fit.series, 3)
    assert shares.shape == (2,) and torch.isfinite(shares).all()


def test_filter_without_proposals_is_the_exact_filter() -> None:
    """40 000 particles moved by the model; the tolerance is some 5 standard errors."""
    model = linear_deep()
    series = gappy_series(model, time=6, batch=1)
    method = Amortized(_plain(), num_particles=40_000)
    found = method.filter(model, series)
    assert series.u is not None
    exact = linear_parameters(model, series.u[0])
    filtered = oracles.filtered(exact, series.y[0])
    torch.testing.assert_close(found.mean[0], filtered.mean, rtol=0, atol=0.08)
    levels = oracles.log_likelihood(exact, series.y[0])
    torch.testing.assert_close(method.log_likelihood(model, series)[0], levels, rtol=0, atol=0.1)


class Ours(nn.Module):
    """A combiner that makes our own guide a mean-field one with the numbers of a `Plain`."""

    uses_innovation = False

    def __init__(self, plain: Plain) -> None:
        super().__init__()
        self.plain, self.hidden = plain, 2

    def forward(self, step: CombinerStep) -> tuple[Tensor, Tensor]:
        y = step.context
        scale = nn.functional.softplus(self.plain.raw(y)) + 1e-3
        return self.plain.mean(y), scale


class Shown(nn.Module):
    """An encoder that shows the observations as they are."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features, self.hidden = features, 2

    def forward(self, features: Tensor, last: Tensor) -> Tensor:
        return features[..., :2]

    def filtering(self, features: Tensor) -> Tensor:
        return features[..., :2]


def _ours(plain: Plain) -> SmoothingGuide:
    guide = SmoothingGuide(2, 2, 1, encoder=Shown(7), combiner=Ours(plain)).double()
    guide.projection = nn.Identity()
    return guide


@pytest.mark.parametrize("batch", [(3,), ()])
def test_its_bound_is_that_of_our_own_mean_field_guide(batch: tuple[int, ...]) -> None:
    """Along the same paths, term by term; ragged and with gaps."""
    model = linear_deep()
    series = gappy_series(model)
    if not batch:
        series = Series(series.y[1], series.u[1])  # type: ignore[index]
    plain = _plain()
    own = _ours(plain)(model, series).expand(torch.Size((4, *batch)))
    other = as_posterior(plain(model, series), model, series).expand(torch.Size((4, *batch)))
    z = other.draw(beyond=False)
    own.path = own.conditionals(z)
    prior = prior_of(other)
    torch.testing.assert_close(other.divergence(prior), own.divergence(prior))
    torch.testing.assert_close(other.log_prob(z), own.log_prob(z))
    parts = other.divergence_by_component(prior)
    torch.testing.assert_close(parts, own.divergence_by_component(prior))
    last = observed_steps(series.y).sum(-1)
    ended = torch.arange(12) >= last[..., None]
    assert (other.divergence(prior)[:, ended] == 0).all()


def _expected(x: Tensor, about: Tensor, noise: Tensor, spread: Tensor) -> Tensor:
    """`E log N(x; about, noise)` where `x - about` has the covariance `spread` around its mean."""
    trace = (torch.linalg.inv(noise) * spread).sum()
    return MultivariateNormal(about, noise).log_prob(x) - 0.5 * trace


def _closed_form(params: LinearParameters, y: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    """`E log p(y, z) - E log q(z)` of independent Gaussian steps, by the matrices of the model."""
    total = MultivariateNormal(mean, cov).entropy().sum()
    total = total + _expected(mean[0], params.initial.mean, params.initial.cov, cov[0])
    A, b, Q = params.transition
    C, d, R = params.emission
    for t in range(len(y)):
        if t:
            spread = cov[t] + A[t] @ cov[t - 1] @ A[t].mT
            total = total + _expected(mean[t], A[t] @ mean[t - 1] + b[t], Q[t], spread)
        s = ~torch.isnan(y[t])
        if s.any():
            H, noise = C[t][s], R[t][s][:, s]
            about = H @ mean[t] + d[t][s]
            total = total + _expected(y[t][s], about, noise, H @ cov[t] @ H.mT)
    return total


@pytest.mark.parametrize("kind", ["normal", "full"])
def test_its_bound_is_the_closed_form_of_a_linear_model(kind: str) -> None:
    """20 000 paths, 5 standard errors; the ragged series ends after four steps."""
    model = linear_deep()
    series = gappy_series(model, time=8)
    with torch.no_grad():
        guide = _plain(kind)
        found = bound(model, guide, series, 20_000)
        total = (found.reconstruction - found.divergence).sum(-1)
        each = (
            as_posterior(guide(model, series), model, series)
            .conditionals(torch.zeros(3, 8, 2, dtype=torch.float64))
            .distribution()
        )
        cov = (
            each.covariance_matrix
            if isinstance(each, MultivariateNormal)
            else torch.diag_embed(each.variance)
        )
    assert series.u is not None
    for i, steps in enumerate(observed_steps(series.y).sum(-1).tolist()):
        params, y = linear_parameters(model, series.u[i, :steps]), series.y[i, :steps]
        exact = _closed_form(params, y, each.mean[i, :steps], cov[i, :steps])
        assert abs(total[:, i].mean() - exact) < 5 * total[:, i].std() / 20_000**0.5


class Returns(nn.Module):
    """A guide that returns what it is told."""

    def __init__(self, build: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.build, self.scale = build, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, model: StateSpaceModel, series: Series) -> object:
        mean = torch.zeros(*series.y.shape[:-1], 2, dtype=torch.float64)
        return self.build(mean + self.scale)


@each_kind
def test_its_paths_weigh_the_likelihood(kind: str) -> None:
    """The mean of `p(y, z) / q(z)` is `p(y)`: paths of a guide that is wider than the posterior.

    The second series ends after two of three steps. Each weight's standard error is measured,
    and 5 of them are allowed.
    """
    model = linear_deep()
    series = Series(*(x[:, :3] for x in gappy_series(model, batch=2)[:2] if x is not None))
    series.y[1, 2:] = torch.nan
    assert series.u is not None
    params, count = [linear_parameters(model, u) for u in series.u], 50_000
    smoothed = [oracles.smooth(p, y) for p, y in zip(params, series.y, strict=True)]
    levels = [oracles.log_likelihood(p, y).sum() for p, y in zip(params, series.y, strict=True)]
    mean = torch.stack([each.mean for each in smoothed])
    scale = torch.stack([each.cov.diagonal(dim1=-2, dim2=-1).sqrt() for each in smoothed])
    guide, exact = Returns(lambda _: KINDS[kind](mean, 1.2 * scale)), torch.stack(levels)
    with torch.no_grad():
        posterior = as_posterior(guide(model, series), model, series)  # type: ignore[arg-type]
        posterior = posterior.expand(torch.Size((count, 2)))
        z = posterior.draw(beyond=False)
        likelihood = observed_log_prob(model.emission(z, series.u), series.y).sum(-1)
        ratio = prior_of(posterior).log_prob(z) - posterior.log_prob(z)
        weights = (likelihood + ratio - exact).exp()
        error = weights.std(0) / count**0.5
        assert (error < 0.03).all() and ((weights.mean(0) - 1).abs() < 5 * error).all()
        same = importance_log_likelihood(model, guide, series, count, chunk=20_000)
        assert ((same - exact).abs() < 6 * error).all()
        found = bound(model, guide, series, count).divergence.sum(-1)
        spread = ((found.var(0) + ratio.var(0)) / count).sqrt()
        assert ((found.mean(0) + ratio.mean(0)).abs() < 5 * spread).all()


@each_kind
def test_after_the_end_the_prior_continues(kind: str) -> None:
    """20 000 draws of the steps after the last observation, whitened by the model: 5 errors."""
    model = linear_deep()
    series = gappy_series(model, time=8)
    guide = _plain(kind)
    z = as_posterior(guide(model, series), model, series).sample((20_000,))[:, 1]
    assert series.u is not None
    for t in range(4, 8):
        prior = model.transition(z[:, t - 1], series.u[1, t])
        white = ((z[:, t] - prior.mean) / prior.variance.sqrt()).detach()
        assert white.mean(0).abs().max() < 5 / 20_000**0.5
        assert (white.var(0) - 1).abs().max() < 5 * (2 / 20_000) ** 0.5


@each_kind
def test_densities_of_a_draw_are_cached_and_right(kind: str) -> None:
    model = linear_deep()
    series = gappy_series(model)
    posterior = as_posterior(_plain(kind)(model, series), model, series).expand(torch.Size((4, 3)))
    z = posterior.draw(beyond=False)
    torch.testing.assert_close(posterior.step_log_prob(z), posterior.step_log_prob(z.clone()))
    assert posterior.log_prob(z).shape == (4, 3)
    if kind != "joint":
        again = as_posterior(_plain(kind)(model, series), model, series)
        again.draw(beyond=False)
        assert kl_divergence(again, again).abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["normal", "full"])
def test_independent_normals_take_every_objective_and_a_flow(kind: str) -> None:
    model = linear_deep()
    series = gappy_series(model)
    objectives = (ImportanceWeighted(3), ParticleBound(4), ParticleBound(4, True), MaskedSuffix(3))
    for objective in objectives:
        SVI(_plain(kind), steps=2, objective=objective).fit(model, series, progress=False)
    flow = FlowGuide(_plain(kind), 2, hidden=4).double()
    learned = SVI(flow, steps=4, report_every=2).fit(model, series, progress=False)
    assert torch.isfinite(learned.method.filter(model, series).mean).all()
    with pytest.raises(ValueError, match="`guide` must have an encoder whose answer"):
        refine(model, flow, series, steps=1)


def test_what_a_guide_cannot_be_asked_is_refused_by_name() -> None:
    model = linear_deep()
    series = gappy_series(model)
    z, prior = torch.zeros(3, 2).double(), model.initial().expand(torch.Size((3,)))
    for kind, words in (("laplace", "steps of Laplace"), ("joint", "returns Transformed")):
        posterior = as_posterior(_plain(kind)(model, series), model, series)
        with pytest.raises(ValueError, match=f"`guide` {words}|`guide` returns {words}"):
            posterior.proposal(z, prior, 1)
    flow = FlowGuide(_plain("laplace"), 2, hidden=4).double()
    with pytest.raises(ValueError, match="one by one"):
        flow(model, series).sample()
    bare = StepwisePosterior(model, series, observed_steps(series.y))
    with pytest.raises(NotImplementedError):
        bare.draw()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m: m, r"must return a distribution of event shape .12, 2. .*got Tensor"),
        (lambda m: Normal(m, 1.0), r"batch shape .3, 12, 2.: wrap it as `Independent.*, 2.`"),
        (lambda m: Independent(Normal(m, 1.0), 1), r"wrap it as `Independent.distribution, 1.`"),
        (lambda m: Independent(Normal(m[0], 1.0), 2), r"parameters of shape .3, 12, 2."),
        (lambda m: Independent(Normal(m[..., :1], 1.0), 2), r"got event shape .12, 1."),
        (
            lambda m: Independent(torch.distributions.Poisson(m), 2),
            "whose `rsample` has a gradient, got Independent",
        ),
    ],
)
def test_shapes_that_cannot_be_are_refused(build: Callable[[Tensor], object], words: str) -> None:
    model = linear_deep()
    series = gappy_series(model)
    with pytest.raises(ValueError, match=words) as caught:
        SVI(Returns(build), steps=1).fit(model, series, progress=False)
    assert "Trace Shapes" not in str(caught.value)


def test_a_guide_that_cannot_be_trained_is_refused() -> None:
    model = linear_deep()

    def guide(model: StateSpaceModel, series: Series) -> Distribution:
        return _normal(torch.zeros(3, 12, 2), torch.ones(3, 12, 2))

    with pytest.raises(ValueError, match="`guide` must be an `nn.Module`.* got function"):
        SVI(guide, steps=1).fit(model, gappy_series(model), progress=False)
