"""What people write by mistake in models and methods of their own, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import deepssm as ds
from deepssm.core.model import Series
from deepssm.core.results import Filtered
from deepssm.inference import (
    SVI,
    Amortized,
    Cubature,
    DrawnForecasts,
    Extended,
    GaussHermite,
    GaussianFilter,
    Huber,
    Kalman,
    Linearized,
    LinearizedGuide,
    Particle,
    Simplex,
    StepwisePosterior,
    Unscented,
    importance_log_likelihood,
)
from deepssm.models.discrete.emissions import StateEmission
from tests.own_models import OwnNetwork, OwnParameter

Given = Tensor | None
Y = torch.randn(6, 1, generator=torch.Generator().manual_seed(0))


def changed(**methods: object) -> ds.StateSpaceModel:
    """Return a stranger's model of two states and one observation with other methods."""
    return type("Own", (OwnParameter,), methods)()


def normal(mean: Tensor, events: int = 1) -> Distribution:
    return Independent(Normal(mean, 0.3 * torch.ones_like(mean)), events)


def _known(value: Given) -> Tensor:
    assert value is not None
    return value


MISTAKES: list[tuple[Callable[[], ds.StateSpaceModel], str]] = [
    (lambda: changed(emission=lambda m, z, u: Normal(z[..., :1], 1.0)),
     r"`Own.emission` must .* event shape \(1,\).*got Normal .*wrap it as `Independent"),
    (lambda: changed(transition=lambda m, z, u, dt: Normal(z, torch.ones_like(z))),
     r"`Own.transition` must .* event shape \(2,\).*wrap it as `Independent"),
    (lambda: changed(initial=lambda m: Normal(torch.zeros(2), 1.0)),
     r"`Own.initial` must .* wrap it as `Independent"),
    (lambda: changed(transition=lambda m, z, u: normal(z)),
     r"`Own.transition` must take the arguments of `transition\(self, z, u, dt\)`"),
    (lambda: changed(transition=lambda m, z: normal(z)), r"arguments of `transition"),
    (lambda: changed(emission=lambda m, z: normal(z[..., :1])), r"arguments of `emission"),
    (lambda: changed(initial=lambda m, extra: normal(torch.zeros(2))), "arguments of `initial"),
    (lambda: changed(initial=lambda m: normal(torch.zeros(5, 2))),
     r"`Own.initial` must .* batch shape \(\), got .*one start serves all series"),
    (lambda: changed(state_dim=3), r"`Own.initial` .*`state_dim` is 3, so set it to 2"),
    (lambda: changed(obs_dim=2), r"`Own.emission` .*`obs_dim` is 2, so set it to 1"),
    (lambda: changed(emission=lambda m, z, u: normal(z)), "`obs_dim` is 1, so set it to 2"),
    (lambda: changed(emission=lambda m, z, u: normal(z[..., 0])), "an axis was lost"),
    (lambda: changed(emission=lambda m, z, u: normal(torch.zeros(1))), "an axis was lost"),
    (lambda: changed(emission=lambda m, z, u: normal(z[..., :1], 2)), "leave the first 1 of its"),
    (lambda: changed(emission=lambda m, z, u: z[..., :1]), "got Tensor: return a `torch.distr"),
    (lambda: changed(emission=lambda m, z, u: (z[..., :1], 1.0)), "got tuple: return"),
    (lambda: changed(emission=lambda m, z, u: None), "got NoneType: return"),
    (lambda: changed(emission=lambda m, z, u: Normal), "got the class Normal: return"),
    (lambda: changed(transition=lambda m, z, u, dt: normal(z @ torch.ones(3, 3))),
     r"`Own.transition` fails on states of shape \(3, 2, 2\).*`z @ A.T`"),
    (lambda: changed(state_dim=None), "`Own` must set `state_dim`, a whole number"),
    (lambda: changed(obs_dim=1.0), "`Own` must set `obs_dim`, a whole number.*got 1.0"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_a_mistake_in_a_model_is_named_at_the_first_verb(
    make: Callable[[], ds.StateSpaceModel], message: str
) -> None:
    calls: list[Callable[[ds.StateSpaceModel], object]] = [
        lambda m: ds.filter(m, Y),
        lambda m: ds.filter(m, Y, method=Particle(20)),
        lambda m: ds.fit(m, Y, progress=False),
        lambda m: ds.simulate(m, 3),
        lambda m: ds.online(m, Unscented()),
        lambda m: ds.as_series(m, Y),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(make())


def test_sizes_that_are_missing_are_named() -> None:
    class Sizeless(ds.StateSpaceModel):
        pass

    with pytest.raises(ValueError, match="`Sizeless` must set `state_dim`.*got nothing"):
        ds.simulate(Sizeless(), 3)


def test_right_models_pass_whatever_they_read() -> None:
    """Time steps, inputs, priors, positive states; and nobody's random numbers are spent."""

    def timed(m: object, z: Tensor, u: Given, dt: Given) -> Distribution:
        return normal(z * torch.exp(-_known(dt))[..., None])

    def positive(m: object) -> Distribution:
        return Independent(torch.distributions.LogNormal(torch.zeros(2), 0.1), 1)

    def steered(m: object, z: Tensor, u: Given, dt: Given) -> Distribution:
        return MultivariateNormal(0.5 * z + _known(u), torch.eye(2).expand(*z.shape[:-1], 2, 2))

    def logs(m: object, z: Tensor, u: Given) -> Distribution:
        return normal(z[..., :1].log())

    def kept(m: object, z: Tensor, u: Given, dt: Given) -> Distribution:
        return Independent(torch.distributions.LogNormal(0 * z, 0.1), 1)

    cases: list[tuple[ds.StateSpaceModel, dict[str, Any]]] = [
        (changed(transition=timed), {"dt": 0.5}),
        (changed(initial=positive, emission=logs, transition=kept), {}),
        (changed(transition=steered, input_dim=2), {"u": torch.zeros(6, 2)}),
    ]
    for model, inputs in cases:
        torch.manual_seed(3)
        want = torch.rand(2)
        torch.manual_seed(3)
        ds.as_series(model, Y, **inputs)
        assert torch.equal(torch.rand(2), want)
        ds.filter(model, Y, **inputs)


def test_a_model_is_looked_at_once() -> None:
    calls: list[int] = []

    def counted(m: object, z: Tensor, u: Given) -> Distribution:
        calls.append(1)
        return normal(z[..., :1])

    model = changed(emission=counted)
    ds.as_series(model, Y)
    before = len(calls)
    for _ in range(3):
        ds.as_series(model, Y)
    assert len(calls) == before


class Own:
    """A stranger's filter of ten lines: exact for a scalar linear model, and only a filter."""

    def filter(self, model: ds.StateSpaceModel, series: Series) -> Any:  # noqa: ANN401
        return Kalman().filter(model, series)


def level() -> ds.models.LinearGaussian:
    return ds.models.LinearGaussian([[0.9]], [[0.3]], [[1.0]], [[0.5]], m0=[0.2], P0=[[1.0]])


def test_a_filter_alone_has_likelihoods_and_forecasts() -> None:
    """Against the exact ones; 4000 draws, 5 standard errors; a batch with a gap at its end."""
    y = torch.cat((Y, torch.full((2, 1), torch.nan)))[None].repeat(3, 1, 1)
    y[1, -1] = 0.3
    exact = ds.forecast(level(), y, 4, method=Kalman())
    own = ds.forecast(level(), y, 4, method=Own(), num_samples=4_000)  # type: ignore[arg-type]
    sd = exact.cov[..., 0].sqrt()
    assert bool(((own.mean - exact.mean).abs() < 5 * sd / 4_000**0.5).all())
    torch.testing.assert_close(own.cov, exact.cov, rtol=0.15, atol=0)
    score = ds.log_likelihood(level(), y, method=Own())  # type: ignore[arg-type]
    torch.testing.assert_close(score, ds.log_likelihood(level(), y))
    for verb in (ds.smooth, ds.sample_posterior):
        with pytest.raises(ValueError, match="`Own` only filters.*define `sample_posterior"):
            verb(level(), y, method=Own())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must infer states.*the class Own"):
        ds.filter(level(), y, method=Own)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Broken(DrawnForecasts):
    """Returns what it is told to."""

    change: Callable[[Filtered], Any]
    paths: Callable[[Tensor], Any] = lambda z: z

    def filter(self, model: ds.StateSpaceModel, series: Series) -> Any:  # noqa: ANN401
        return self.change(Kalman().filter(model, series))

    def sample_posterior(
        self,
        model: ds.StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        return self.paths(Kalman().sample_posterior(model, series, num_samples, generator))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (tuple, "`Broken.filter` must return a `deepssm.core.results.Filtered`, got tuple"),
        (lambda f: None, "Filtered`, got NoneType"),
        (lambda f: f.mean, "Filtered`, got Tensor"),
        (
            lambda f: f._replace(mean=f.mean[..., 0]),
            r"mean` must have shape \(2, 6, 1\).*got \(2, 6\)",
        ),
        (lambda f: f._replace(cov=f.cov[..., 0]), r"cov` must have shape \(2, 6, 1, 1\)"),
        (lambda f: f._replace(mean=f.mean.movedim(-2, 0)), r"mean` must have shape \(2, 6, 1\)"),
        (
            lambda f: f._replace(log_likelihood=f.log_likelihood.sum(-1)),
            "log_likelihood` must have",
        ),
        (lambda f: f._replace(predicted_mean=f.mean.numpy()), "predicted_mean` must be a tensor"),
    ],
)
def test_what_an_own_filter_returns_is_looked_at(
    change: Callable[[Filtered], Any], message: str
) -> None:
    y = torch.stack((Y, Y))
    with pytest.raises(ValueError, match=message):
        ds.filter(level(), y, method=Broken(change))


def test_what_an_own_sampler_returns_is_looked_at() -> None:
    own = Broken(lambda f: f, lambda z: z.movedim(0, -1))
    with pytest.raises(ValueError, match=r"sample_posterior.* must have shape \(7, 6, 1\)"):
        ds.sample_posterior(level(), Y, method=own, num_samples=7)
    assert ds.sample_posterior(level(), Y, method=Broken(lambda f: f), num_samples=7).ndim == 3


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: tuple(x), "must return `Linearized.*got tuple"),
        (lambda x: x.mean, "must return `Linearized.*got Tensor"),
        (lambda x: x._replace(slope=x.slope.mT[..., :1]), r"must return .* \(1, 2\)"),
        (lambda x: x._replace(mean=x.mean[None, ..., None]), r"must return .* mean \(1, "),
    ],
)
def test_what_an_own_rule_returns_is_looked_at(
    returned: Callable[[Linearized], Any], message: str
) -> None:
    @dataclass(frozen=True)
    class Rule(GaussianFilter):
        def moments(self, state_dim: int) -> Any:  # noqa: ANN401
            rule = Unscented().moments(state_dim)
            return lambda *given: returned(rule(*given))

    with pytest.raises(ValueError, match=message):
        ds.filter(OwnNetwork(), Y, method=Rule())
    with pytest.raises(ValueError, match=message):
        ds.online(OwnNetwork(), Rule()).update(0.3)


@pytest.mark.parametrize("robust", ["huber", Huber, 3.0])
def test_a_name_is_no_robust_update(robust: Any) -> None:  # noqa: ANN401
    for rule in (Extended, Unscented, Cubature, Simplex, GaussHermite):
        with pytest.raises(ValueError, match=r"`robust` must be `Gate\(\)`"):
            rule(robust=robust)
    with pytest.raises(ValueError, match="`iterations` must be a whole number"):
        Unscented(iterations=0)
    with pytest.raises(ValueError, match="`proposal` must be `Bootstrap"):
        Particle(proposal=robust)


class Misnamed(nn.Module):
    def forward(self, series: Series) -> Distribution:
        return normal(series.y, 2)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (normal(Y, 2), "got Independent, which cannot be called: return it from the `forward"),
        (Misnamed(), r"called as `guide\(model, series\)`, but Misnamed takes other"),
        (Misnamed, r"got the class Misnamed: pass `Misnamed\(...\)`"),
        ("lstm", "got str, which cannot be called"),
    ],
)
def test_what_is_no_guide_is_named(guide: Any, message: str) -> None:  # noqa: ANN401
    model = ds.models.DeepMarkov(1, 1)
    with pytest.raises(ValueError, match=message):
        Amortized(guide)
    with pytest.raises(ValueError, match=message):
        importance_log_likelihood(model, guide, ds.as_series(model, Y))
    with pytest.raises(ValueError, match="`guide` must be"):
        ds.fit(model, Y, method=SVI(guide), progress=False)
    tensor: Any = Y
    with pytest.raises(ValueError, match="`series` must be checked data, got Tensor: pass `ds.as"):
        importance_log_likelihood(model, LinearizedGuide(), tensor)


def test_what_a_base_class_leaves_open_is_named() -> None:
    """Every base class that strangers derive from says what it wants."""
    empty = StepwisePosterior(
        ds.models.DeepMarkov(1, 1), Series(Y), torch.ones(6, dtype=torch.bool)
    )
    for call, name in (
        (lambda: empty.expand(torch.Size()), "expand"),
        (lambda: empty.draw(), "draw"),
        (lambda: empty.conditionals(Y), "conditionals"),
        (lambda: empty.proposal(Y, normal(Y), 0), "proposal"),
        (lambda: StateEmission().log_prob(Y), "log_prob"),
        (lambda: StateEmission().distribution(Y), "distribution"),
    ):
        with pytest.raises(NotImplementedError, match=f"does not define `{name}"):
            call()
