"""One name for one thing in all methods and learners; old keywords work for one release."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributions import Distribution, Independent, Normal

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference import (
    BaumWelch,
    Ensemble,
    ForwardBackward,
    Kalman,
    ObservationDistribution,
    Particle,
    ParticleMetropolis,
    PosteriorLinearization,
    RaoBlackwellised,
    Switching,
)
from deepssm.models.discrete.switching import SwitchingDistribution, SwitchingLaw
from deepssm.models.discrete.symbols import SymbolDistribution, SymbolLaw


@pytest.mark.parametrize(
    ("build", "old", "new", "value"),
    [
        (BaumWelch, "iterations", "max_iterations", 7),
        (BaumWelch, "forward_backward", "inference", ForwardBackward("scan")),
        (ParticleMetropolis, "particle", "inference", Particle(10)),
        (PosteriorLinearization, "iterations", "max_iterations", 3),
        (PosteriorLinearization, "exact", "inference", Kalman(backend="scan")),
    ],
)
def test_old_keywords_warn(build: Callable[..., Any], old: str, new: str, value: object) -> None:
    with pytest.warns(DeprecationWarning, match=f"`{old}` of `{build.__name__}` is now `{new}`"):
        assert getattr(build(**{old: value}), new) == value


def linear() -> ds.StateSpaceModel:
    return ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]])


def switching() -> ds.StateSpaceModel:
    calm = ds.models.LinearGaussian([[0.9]], [[0.1]], [[1.0]], [[0.5]], P0=[[1.0]])
    return ds.models.SwitchingLinearGaussian([calm, linear()])


@pytest.mark.parametrize(
    ("build", "model"),
    [
        (lambda **k: Particle(50, **k), linear),
        (lambda **k: Ensemble(50, **k), linear),
        (lambda **k: RaoBlackwellised(50, **k), switching),
        (lambda **k: Switching(num_paths=20, **k), switching),
    ],
    ids=["Particle", "Ensemble", "RaoBlackwellised", "Switching"],
)
def test_a_generator_wins_over_the_seed(
    build: Callable[..., Any], model: Callable[[], ds.StateSpaceModel]
) -> None:
    series = Series(torch.randn(6, 1, generator=source(1)).double())

    def smooth(**options: object) -> torch.Tensor:
        return build(**options).smooth(model(), series).mean

    assert torch.equal(smooth(seed=3), smooth(seed=3))
    drawn = smooth(generator=source(5), seed=3)
    assert torch.equal(drawn, smooth(generator=source(5), seed=4))
    assert not torch.equal(drawn, smooth(seed=3))
    method = build(generator=source(5))
    first = method.smooth(model(), series).mean
    assert not torch.equal(first, method.smooth(model(), series).mean)


def test_a_distribution_without_inference_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"pass `inference=Kalman\(\)`"):
        ObservationDistribution(linear(), 3)


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class OldFamily(ds.models.StateEmission):
    """A stranger's family under the old name of its distribution."""

    num_states, obs_dim = 2, 1

    def law(self, z: torch.Tensor, u: torch.Tensor | None = None) -> Distribution:
        return Independent(Normal(z[..., :1], 1.0), 1)


def test_old_names_of_a_states_distribution_warn() -> None:
    family, z = ds.models.PoissonStates(2), torch.eye(2, dtype=torch.float64)
    with pytest.warns(DeprecationWarning, match="`StateEmission.law` is now `distribution`"):
        assert torch.equal(family.law(z).mean, family.distribution(z).mean)
    with pytest.warns(DeprecationWarning, match="`StateEmission.law_after` is now"):
        assert torch.equal(family.law_after(z, z[:, None]).mean, family.distribution(z).mean)
    with pytest.warns(DeprecationWarning, match="`OldFamily.law` is now `distribution`"):
        assert OldFamily().distribution(z).mean.shape == (2, 1)
    with pytest.warns(DeprecationWarning, match="`SymbolLaw` is now `SymbolDistribution`"):
        assert isinstance(SymbolLaw(torch.zeros(3)), SymbolDistribution)
    with pytest.warns(DeprecationWarning, match="`SwitchingLaw` is now `SwitchingDistribution`"):
        law = SwitchingLaw(torch.zeros(2), torch.zeros(2, 1), torch.ones(2, 1, 1))
    assert isinstance(law, SwitchingDistribution)
