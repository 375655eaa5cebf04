"""What random models met at the edges: impossible observations, dead modes, no noise, no data."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import deepssm as ds
from deepssm.core.methods import InferenceMethod
from deepssm.core.model import Series, StateSpaceModel
from deepssm.models import HiddenMarkov, LinearGaussian, StateEmission, SwitchingLinearGaussian
from tests.nonlinear_models import NAN, matrix

INFER = ds.inference


class Labels(StateEmission):
    """Each state emits its own number and nothing else."""

    num_states, obs_dim = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        same = (y == torch.arange(2)) | y.isnan()
        return torch.where(same, self.unused, -torch.inf)

    def initialize(self, y: Tensor, u: Tensor | None, generator: torch.Generator) -> None:
        return None

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        return None


def labels() -> HiddenMarkov:
    return HiddenMarkov(Labels(), transition=matrix([[0.9, 0.1], [0.2, 0.8]]))


@pytest.mark.parametrize("backend", ["sequential", "scan"])
def test_an_impossible_reading_counts_as_missing_for_what_follows(backend: str) -> None:
    """Oracle: the series with that observation missing; two series, only one of which has some."""
    method = INFER.ForwardBackward(backend)  # type: ignore[arg-type]
    y = matrix([[0, 1, 7, 1, 5, NAN, 0], [0, 0, NAN, 1, 1, 0, 1]])[..., None]
    impossible = (y > 1)[..., 0]
    expected = ds.smooth(labels(), torch.where(y > 1, NAN, y))
    smoothed = ds.smooth(labels(), y, method=method)
    torch.testing.assert_close(smoothed.mean, expected.mean)
    torch.testing.assert_close(smoothed.cross_cov, expected.cross_cov)
    assert bool((smoothed.log_likelihood[impossible] == -torch.inf).all())
    possible = ~impossible
    torch.testing.assert_close(
        smoothed.log_likelihood[possible], expected.log_likelihood[possible]
    )
    assert smoothed.ill_conditioned.tolist() == [True, False]


def test_learning_from_an_impossible_series_says_so() -> None:
    model = labels()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="`y` is impossible: its log-likelihood is -inf"):
        ds.fit(model, [0.0, 7.0, 1.0], progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("order", [1, 2])
def test_a_mode_that_is_never_reached_leaves_gradients_alone(order: int) -> None:
    """Oracle: the gradient of the other mode's Kalman filter."""
    scale = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    other = LinearGaussian([[0.5]], [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]])
    y = torch.randn(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for switching in (True, False):
        mode = LinearGaussian([[0.9]], [[0.3]], [[1.0]], scale, P0=[[1.0]])
        model: StateSpaceModel = mode
        if switching:
            start = torch.tensor([1.0, 0.0], dtype=torch.float64)
            eye = torch.eye(2, dtype=torch.float64)
            model = SwitchingLinearGaussian([mode, other], initial=start, transition=eye)
        method = INFER.Switching(order) if switching else None  # type: ignore[arg-type]
        score = ds.log_likelihood(model, y, method=method).sum()
        gradients += torch.autograd.grad(score, scale)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_guided_particles_need_no_density_of_the_transition() -> None:
    """Mean of 2000 estimates with 5 particles each; fails by chance at 5 standard errors, 1e-6."""
    model = LinearGaussian(
        [[1.0, 1.0], [0.0, 0.8]], [[0.0, 0.0], [0.0, 0.4]], [[1.0, 0.3], [0.2, 1.0]],
        [[0.4, 0.1], [0.1, 0.3]], P0=[[1.0, 0.2], [0.2, 0.5]],
    )  # fmt: skip
    y = matrix([[0.3, -0.2], [1.1, NAN], [NAN, NAN], [2.5, 0.7]])
    exact = ds.log_likelihood(model, y).sum()
    for auxiliary in (False, True):
        method = INFER.Particle(5, proposal=INFER.Guided(), auxiliary=auxiliary)
        found = ds.log_likelihood(model, y.expand(2000, 4, 2), method=method)
        assert bool((found[:, 2] == 0).all())
        weight = (found.sum(-1) - exact).exp()
        assert abs(float(weight.mean()) - 1) < 5 * float(weight.std()) / math.sqrt(2000)


@pytest.mark.parametrize("method", [INFER.Extended(), INFER.Unscented()], ids=["ekf", "ukf"])
def test_exact_knowledge_is_judged_in_the_size_of_the_observations(
    method: InferenceMethod,
) -> None:
    """A rotation without any noise, read in three ways that must agree."""
    turn = matrix([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    C, nothing = matrix([[1, 0], [0, 1], [1, 1]]), torch.zeros(2, 2, dtype=torch.float64)
    for size in (1.0, 1e6, 1e9):
        z = [size * torch.tensor([1.0, 2.0], dtype=torch.float64)]
        for _ in range(5):
            z.append(turn @ z[-1])
        y = torch.stack(z) @ C.mT
        R = torch.zeros(3, 3, dtype=torch.float64)
        model = LinearGaussian(turn, nothing, C, R, m0=z[0], P0=nothing)
        assert bool((ds.log_likelihood(model, y, method=method) == 0).all())
        y[3, 2] += 1e-3 * size
        assert ds.log_likelihood(model, y, method=method)[3] == -torch.inf


@pytest.mark.parametrize("update", ["square_root", "deterministic", "stochastic"])
def test_ensembles_refuse_readings_without_noise(update: str) -> None:
    model = LinearGaussian([[0.9]], [[1.0]], [[1.0], [2.0]], [[0.0, 0], [0, 0]], P0=[[1.0]])
    method = INFER.Ensemble(20, update=update)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`R` must be invertible for `Ensemble`"):
        ds.filter(model, [[1.0, 2.0]], method=method)


def test_no_step_is_refused_by_name() -> None:
    model = LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[1.0]], P0=[[1.0]])
    switching = SwitchingLinearGaussian([model, model])
    assert ds.smooth(model, torch.zeros(0, 1)).mean.shape == (0, 1)
    assert ds.log_likelihood(model, torch.zeros(0, 1)).sum() == 0
    for case in (switching, HiddenMarkov(ds.models.PoissonStates(2))):
        for verb in (ds.filter, ds.smooth, ds.log_likelihood, ds.sample_posterior):
            with pytest.raises(ValueError, match=r"`y` has no time step, its shape is \(0, 1\)"):
                verb(case, torch.zeros(0, 1))
        assert ds.forecast(case, torch.zeros(0, 1), 2).mean.shape == (2, 1)
    for method in (INFER.Extended(), INFER.Particle(10)):
        with pytest.raises(ValueError, match="`y` has no time step"):
            ds.filter(model, torch.zeros(0, 1), method=method)
    with pytest.raises(ValueError, match="`y` has no time step"):
        INFER.ForwardBackward().viterbi(labels(), Series(torch.zeros(0, 1)))


def test_time_steps_may_be_a_column_of_a_frame() -> None:
    times = pd.to_datetime(pd.Series(["2024-01-01", "2024-01-03", "2024-01-04"]))
    steps = times.diff().dt.total_seconds() / 86400
    model = ds.models.ConstantVelocity(1)
    y = [1.0, 2.0, 2.5]
    expected = ds.filter(model, y, dt=[0.0, 2.0, 1.0]).mean
    assert torch.equal(ds.filter(model, y, dt=steps).mean, expected)
    assert torch.equal(ds.filter(model, y, dt=steps.to_frame()).mean, expected)


def test_a_singular_covariance_may_come_in_single_precision() -> None:
    """Rounding to float32 makes some of twenty such matrices indefinite by 1e-8."""
    eye = torch.eye(3)
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        factor = torch.randn(3, 2, generator=g)
        Q = factor @ factor.mT

        model = LinearGaussian(eye, Q, eye[:2], 0.1 * eye[:2, :2], P0=Q.numpy())
        torch.testing.assert_close(model.Q.float(), Q)
        y = torch.randn(4, 2, generator=g)
        exact = ds.log_likelihood(model, y)
        for method in (INFER.Extended(), INFER.Kalman(backend="scan")):
            torch.testing.assert_close(ds.log_likelihood(model, y, method=method), exact)
    with pytest.raises(ValueError, match="`Q` must be positive semi-definite"):
        LinearGaussian(eye, torch.diag(torch.tensor([1.0, 1.0, -0.1])), eye, eye, P0=eye)
