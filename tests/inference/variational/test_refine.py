"""Refined guides: closer to exact answers, for one series only, and nothing else is touched."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from deepssm.api.verbs import smooth
from deepssm.core.model import Series
from deepssm.core.pyro_sites import seeded
from deepssm.inference.guides.chain_guide import ChainGuide
from deepssm.inference.guides.combiners import GateCombiner
from deepssm.inference.guides.conjugate_guide import ConjugateGuide
from deepssm.inference.guides.flow_guide import FlowGuide
from deepssm.inference.guides.linearized_guide import LinearizedGuide
from deepssm.inference.guides.smoothing_guide import SmoothingGuide
from deepssm.inference.variational.amortized import Amortized
from deepssm.inference.variational.elbo import bound, importance_log_likelihood
from deepssm.inference.variational.refine import refine
from deepssm.models.deep.deep_markov import DeepMarkov

from ... import oracles
from ...deep_models import gappy_series, linear_deep, linear_parameters, neural_deep, scramble


def _guides() -> dict[str, nn.Module]:
    """One of every family with an encoder, which was scrambled: its answers are bad."""
    guides: dict[str, nn.Module] = {
        "product": SmoothingGuide(2, 2, 1, hidden=16),
        "gate": SmoothingGuide(2, 2, 1, hidden=16, combiner=GateCombiner(2, 2, 16)),
        "chain": ChainGuide(2, 2, 1, hidden=16),
        "conjugate": ConjugateGuide(2, 2, 1, hidden=8),
        "flow": FlowGuide(SmoothingGuide(2, 2, 1, hidden=8), 2, hidden=8),
    }
    for name, guide in guides.items():
        inner: nn.Module = getattr(guide, "guide", guide)
        scramble(guide.double(), 2, 0.1)
        scramble(inner.encoder, 3, 0.05 if name == "chain" else 0.5)  # type: ignore[arg-type]
    return guides


with torch.random.fork_rng():
    torch.manual_seed(1)  # collected at import, when the random state is whatever ran before
    GUIDES = _guides()
each_guide = pytest.mark.parametrize("name", GUIDES)


def _exact(model: DeepMarkov, series: Series) -> Tensor:
    """Log-likelihood of each series by the dense joint Gaussian, which no guide knows of."""
    assert series.u is not None
    rows = zip(series.u, series.y, strict=True)
    return torch.stack(
        [oracles.log_likelihood(linear_parameters(model, u), y).sum() for u, y in rows]
    )


def _level(model: DeepMarkov, guide: nn.Module, series: Series, paths: int = 400) -> Tensor:
    """The bound of each series; with 10 paths by the noise that `refine` judges by."""
    with torch.no_grad(), seeded(torch.Generator().manual_seed(0)):
        parts = bound(model, guide, series, paths)
    return (parts.reconstruction - parts.divergence).sum(-1).mean(0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Share of the distance to the exact likelihood that may be left; no family but the conjugate
# one can close all of it through its contexts alone.
LEFT = {"product": 0.8, "gate": 0.3, "chain": 0.5, "conjugate": 0.8, "flow": 0.8}


@each_guide
def test_the_bound_comes_closer_to_the_exact_likelihood(name: str) -> None:
    """For each series of a batch, with gaps and inputs; 400 paths, other ones than it saw."""
    model = linear_deep()
    series = gappy_series(model, time=6)
    exact = _exact(model, series)
    before = exact - _level(model, GUIDES[name], series)
    guide = refine(
        model, GUIDES[name], series, steps=30, learning_rate=0.3, generator=_generator()
    )
    after = exact - _level(model, guide, series)
    assert (before > 1.0).all()
    assert (after < LEFT[name] * before).all()
    assert (after > -0.3).all()


def test_a_family_with_the_exact_posterior_reaches_it() -> None:
    """Oracle: the dense joint Gaussian. A twentieth of the distance is left, and 100 importance
    samples, whose weights are level then, come within 0.05 nats.
    """
    model = linear_deep()
    series = gappy_series(model, time=4, batch=2)
    series = Series(series.y.nan_to_num(0.3), series.u)
    guide = copy.deepcopy(GUIDES["conjugate"])
    assert isinstance(guide, ConjugateGuide)
    assert series.u is not None
    with torch.no_grad():
        guide.read.copy_(linear_parameters(model, series.u[0]).emission.matrix[0])
    exact = _exact(model, series)
    before = exact - _level(model, guide, series)
    found = refine(model, guide, series, steps=200, learning_rate=0.3, generator=_generator())
    after = exact - _level(model, found, series)
    assert (before > 3.0).all()
    assert (after.abs() < before / 20).all()
    with torch.no_grad(), seeded(_generator()):
        sampled = importance_log_likelihood(model, found, series, 100)
    torch.testing.assert_close(sampled, exact, rtol=0, atol=0.05)


@each_guide
@pytest.mark.parametrize("rate", [0.01, 30.0])
def test_no_series_ends_worse_than_it_started(name: str, rate: float) -> None:
    model = neural_deep() if name != "conjugate" else linear_deep()
    series = gappy_series(model, time=6)
    guide = refine(model, GUIDES[name], series, steps=4, learning_rate=rate)
    before, after = (_level(model, each, series, 10) for each in (GUIDES[name], guide))
    assert (after >= before).all()
    assert after.isfinite().all()
    assert rate > 1 or (after > before).any()


def test_a_series_that_breaks_the_model_spares_the_others() -> None:
    """In float32 the square of 1e30 overflows: that series keeps its start, without an error."""
    whole = gappy_series(neural_deep())
    assert whole.u is not None
    model, series = neural_deep().float(), Series(whole.y.float(), whole.u.float())
    series.y[2, 5] = 1e30
    guide = copy.deepcopy(GUIDES["gate"]).float()
    found = refine(model, guide, series, steps=20, learning_rate=0.1, generator=_generator())
    with torch.no_grad():
        start = guide.encode(series)  # type: ignore[operator]
    torch.testing.assert_close(found.context[2], start[2])
    before, after = (_level(model, each, series, 10) for each in (guide, found))
    assert (after[:2] > before[:2]).all()
    assert found.context.isfinite().all()


@pytest.mark.parametrize("name", ["product", "gate"])
@pytest.mark.parametrize("payload", [math.nan, 1e30])
def test_what_lies_after_the_end_changes_nothing(name: str, payload: float) -> None:
    """Inputs after the last observation, bit for bit."""
    model, found = neural_deep(), []
    series = gappy_series(model)
    assert series.u is not None
    for value in (0.0, payload):
        u = series.u.clone()
        u[1, 8:] = value
        given = Series(series.y, u)
        guide = refine(model, GUIDES[name], given, steps=5, generator=_generator())
        level = _level(model, guide, given, 5)
        assert level.isfinite().all()
        found.append((guide.context, level))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_series_alone_is_refined_as_in_a_batch() -> None:
    """With noise of 0, which is the same for both."""
    model = neural_deep()
    series = gappy_series(model)
    assert series.u is not None
    alone = Series(series.y[1], series.u[1])
    contexts = []
    original = torch.randn
    torch.randn = lambda *a, **k: original(*a, **k).zero_()  # type: ignore[assignment]
    try:
        for given in (series, alone):
            contexts.append(refine(model, GUIDES["gate"], given, steps=10).context)
    finally:
        torch.randn = original
    torch.testing.assert_close(contexts[0][1], contexts[1])


def test_model_and_guide_are_left_as_they_were() -> None:
    model, guide = neural_deep(), copy.deepcopy(GUIDES["product"]).train()
    series = gappy_series(model)
    before = [x.clone() for part in (model, guide) for x in part.state_dict().values()]
    found = refine(model, guide, series, steps=3)
    after = [x for part in (model, guide) for x in part.state_dict().values()]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))
    assert all(
        p.requires_grad and p.grad is None for p in (*model.parameters(), *guide.parameters())
    )
    assert guide.training
    scramble(guide, 1)  # What is learnt later does not reach what was refined.
    assert not any(p.requires_grad for p in found.parameters())
    assert isinstance(found.guide, torch.nn.Module)
    own = found.guide.state_dict()
    assert all(torch.equal(own[name], x) for name, x in zip(own, before[-len(own) :], strict=True))


def test_another_series_is_refused() -> None:
    model = neural_deep()
    series = gappy_series(model)
    guide = refine(model, GUIDES["chain"], series, steps=1)
    assert series.u is not None
    nudged, inputs = series.y.clone(), series.u.clone()
    nudged[0, 0, 0] += 1e-6
    inputs[0, 0, 0] += 1e-6
    seen = torch.cat([series.y, series.y[:, :1]], 1), torch.cat([series.u, series.u[:, :1]], 1)
    others = [
        Series(nudged, series.u),
        Series(series.y, inputs),
        Series(series.y, None),
        Series(series.y, series.u, torch.tensor(1.0)),
        Series(series.y[:, :-1], series.u[:, :-1]),
        Series(series.y[:1], series.u[:1]),
        Series(*seen),
    ]
    for other in others:
        with pytest.raises(ValueError, match="`series` must be the one this guide was refined on"):
            guide(model, other)
        with pytest.raises(ValueError, match="`series` must be the one this guide was refined on"):
            guide.filtering(model, other)
    guide(model, Series(series.y.clone(), series.u.clone()))


def test_unseen_steps_may_follow() -> None:
    """Then the guide is the model there, and before them what it was."""
    model = neural_deep()
    series = gappy_series(model)
    guide = refine(model, GUIDES["gate"], series, steps=3)
    pad = torch.full((3, 4, 2), torch.nan, dtype=torch.float64)
    assert series.u is not None
    whole = Series(torch.cat([series.y, pad], 1), torch.cat([series.u, series.u[:, :4]], 1))
    z = guide(model, whole).sample()
    assert z.isfinite().all()
    torch.testing.assert_close(
        guide(model, whole).step_log_prob(z)[:, :12], guide(model, series).step_log_prob(z[:, :12])
    )


def test_only_guides_with_an_encoder_and_positive_numbers_are_taken() -> None:
    model = neural_deep()
    series = gappy_series(model)
    refined = refine(model, GUIDES["gate"], series, steps=1)
    for guide, named in ((LinearizedGuide(), "LinearizedGuide"), (refined, "RefinedGuide")):
        with pytest.raises(ValueError, match=f"`guide` must have an encoder .* got {named}"):
            refine(model, guide, series)
    with pytest.raises(ValueError, match="`guide` must have an encoder .* got FlowGuide"):
        refine(model, FlowGuide(LinearizedGuide(), 2), series)
    for name in ("steps", "learning_rate", "num_particles"):
        with pytest.raises(ValueError, match=f"`{name}` must be positive and finite, got 0"):
            refine(model, GUIDES["gate"], series, **{name: 0})  # type: ignore[arg-type]


def test_the_verbs_smooth_better_with_it() -> None:
    """Oracle: the exact smoother. A single series, without a batch axis, as users have it."""
    model = linear_deep()
    whole = gappy_series(model, time=8, batch=1)
    assert whole.u is not None
    y, u = whole.y[0], whole.u[0]
    exact = oracles.smooth(linear_parameters(model, u), y).mean
    errors = []
    for steps in (0, 80):
        method = Amortized(GUIDES["conjugate"], num_samples=200, refine=steps)
        mean = smooth(model, y, u, method=method).mean
        errors.append(float((mean - exact).square().mean().sqrt()))
    assert errors[1] < 0.7 * errors[0]
