"""Standard errors of probabilities and rates against a direct parametrisation without logits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import Readable
from deepssm.inference import BaumWelch, MaximumLikelihood
from deepssm.inference.estimation.objective import free_count
from deepssm.models import (
    CategoricalStates,
    GaussianStates,
    HiddenMarkov,
    LinearGaussian,
    MixtureStates,
    PoissonStates,
    SwitchingLinearGaussian,
)

START = torch.tensor([0.6, 0.4], dtype=torch.float64)


def counts(time: int = 250) -> Tensor:
    g = torch.Generator().manual_seed(3)
    state = (torch.rand(time, generator=g) < 0.12).cumsum(0) % 2
    y = torch.poisson(torch.where(state == 0, 2.0, 8.0), generator=g).double()
    return torch.where(torch.rand(time, generator=g) < 0.1, torch.nan, y)


def minus_log_likelihood(x: np.ndarray, y: np.ndarray) -> float:
    """Return that of a chain that leaves its states at rates `x[:2]` and counts at `x[2:]`."""
    A = np.array([[1 - x[0], x[0]], [x[1], 1 - x[1]]])
    p, total = START.numpy(), 0.0
    for t, count in enumerate(y):
        p = p @ A if t else p
        if not np.isnan(count):
            p = p * np.exp(count * np.log(x[2:]) - x[2:] - math.lgamma(count + 1))
        total, p = total + np.log(p.sum()), p / p.sum()
    return -total


def test_errors_are_those_of_the_direct_parametrisation() -> None:
    """Oracle: a loop over four plain numbers, and second differences of it at its optimum."""
    y = counts()
    data = y.numpy()
    model = HiddenMarkov(PoissonStates(2), initial=START)
    learned = ds.fit(model, y, method=BaumWelch(tolerance=1e-13), progress=False).learned
    A = model.log_transition()[0].detach().exp()
    rates = model.readable()["family.log_rate"].value[:, 0].detach().numpy()
    best = np.array([A[0, 1].item(), A[1, 0].item(), *rates])
    assert -minus_log_likelihood(best, data) == pytest.approx(learned.objective, abs=1e-9)
    H, steps = np.zeros((4, 4)), 1e-4 * best
    for i, j, a, b in itertools.product(range(4), range(4), (1, -1), (1, -1)):
        x = best.copy()
        x[i] += a * steps[i]
        x[j] += b * steps[j]
        H[i, j] += a * b * minus_log_likelihood(x, data) / (4 * steps[i] * steps[j])
    expected = np.sqrt(np.linalg.inv(H).diagonal())
    errors = learned.standard_errors
    got = [errors["transition"][0, 1], errors["transition"][1, 0], *errors["emission.rate"][:, 0]]
    np.testing.assert_allclose([float(x) for x in got], expected, rtol=1e-4)
    # What leaves a state is one minus what stays.
    torch.testing.assert_close(errors["transition"][:, 0], errors["transition"][:, 1])
    assert learned.diagnostics["num_parameters"] == 4
    assert learned.diagnostics["aic"] == pytest.approx(8 - 2 * learned.objective)
    again = MaximumLikelihood(initialize=False)
    climbed = ds.fit(model, y, method=again, progress=False).learned
    assert not climbed.warnings and climbed.diagnostics["num_parameters"] == 4
    for name, error in errors.items():
        torch.testing.assert_close(climbed.standard_errors[name], error, rtol=1e-4, atol=0)


def test_what_the_data_do_not_say_has_no_error_and_spoils_no_other() -> None:
    """A third state that no series enters, a start at the edge of the simplex."""
    moves = torch.tensor([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 1.0]])
    first = torch.tensor([0.5, 0.5, 0.0])
    y = counts(120)
    wide = HiddenMarkov(PoissonStates(3), transition=moves, initial=first)
    narrow = HiddenMarkov(PoissonStates(2), transition=moves[:2, :2], initial=first[:2])
    method = BaumWelch(tolerance=1e-13)
    found = [ds.fit(m, y, method=method, progress=False).learned for m in (wide, narrow)]
    rates = [learned.standard_errors["emission.rate"] for learned in found]
    assert rates[0].isnan().sum() == 1 and bool(rates[0][2].isnan())
    torch.testing.assert_close(rates[0][:2].sort(0)[0], rates[1].sort(0)[0], rtol=1e-4, atol=0)

    model = HiddenMarkov(PoissonStates(2))
    learned = ds.fit(model, y, method=BaumWelch(tolerance=1e-13), progress=False).learned
    assert bool(learned.standard_errors["initial"].isnan().all())
    assert bool(learned.standard_errors["transition"].isfinite().all())
    at = MaximumLikelihood(initialize=False)
    assert not ds.fit(model, y, method=at, progress=False).learned.warnings


def test_input_weights_have_errors_less_their_mean() -> None:
    """Weights of a row are determined up to a constant; two states leave one number a row."""
    y, g = counts(150), torch.Generator().manual_seed(0)
    u = torch.randn(150, 1, generator=g, dtype=torch.float64)
    model = HiddenMarkov(PoissonStates(2), initial=START, input_dim=1, driven=True)
    errors = ds.fit(model, y, u, progress=False, method=BaumWelch()).learned.standard_errors
    weights = errors["transition weight"]
    assert bool(weights.isfinite().all()) and weights.shape == (2, 2, 1)
    torch.testing.assert_close(weights[:, 0], weights[:, 1])


def test_beyond_a_number_of_parameters_no_errors_are_taken() -> None:
    model = HiddenMarkov(PoissonStates(2), initial=START)
    method = BaumWelch(curvature_limit=5)
    assert ds.fit(model, counts(40), method=method, progress=False).learned.standard_errors == {}


def test_switching_models_have_errors_of_their_probabilities() -> None:
    """The rows of a transition matrix of two modes have one free number each."""

    def mode(q: float) -> LinearGaussian:
        return LinearGaussian([[0.9]], [[q]], [[1.0]], [[0.5]], P0=[[1.0]])

    model = SwitchingLinearGaussian([mode(0.05), mode(4.0)], initial=START)
    y = ds.simulate(model, 25, generator=torch.Generator().manual_seed(0)).y
    method = MaximumLikelihood(max_iterations=1, initialize=False)
    errors = ds.fit(model, y, method=method, progress=False).learned.standard_errors["transition"]
    assert bool((errors > 1e-3).all())
    torch.testing.assert_close(errors[:, 0], errors[:, 1])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (HiddenMarkov(GaussianStates(3, 2)), 2 + 6 + 6 + 9),
        (HiddenMarkov(GaussianStates(3, 2, covariance="tied")), 2 + 6 + 6 + 3),
        (HiddenMarkov(GaussianStates(3, 2, covariance="diagonal")), 2 + 6 + 6 + 6),
        (HiddenMarkov(CategoricalStates(2, 4)), 1 + 2 + 6),
        (HiddenMarkov(MixtureStates(2, 1, 3)), 1 + 2 + 4 + 6 + 6),
        (HiddenMarkov(PoissonStates(3), input_dim=2, driven=True), 2 + 6 + 12 + 3),
    ],
)
def test_the_number_of_free_parameters(model: HiddenMarkov, expected: int) -> None:
    assert free_count(model) == expected
    for part in model.readable().values():
        assert isinstance(part, Readable)
