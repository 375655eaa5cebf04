from __future__ import annotations

import pytest
import torch

import deepssm as ds
from deepssm.models.discrete.emissions import StateEmission

STATES = ds.models


@pytest.mark.parametrize(
    ("emission", "bad", "words"),
    [
        (STATES.PoissonStates(2), -1.0, "counts 0, 1, 2 ... or NaN, .* got -1"),
        (STATES.PoissonStates(2), 2.5, "counts .* got 2.5"),
        (STATES.BernoulliStates(2), 7.0, "0, 1 or NaN, .* got 7"),
        (STATES.CategoricalStates(2, 3), 3.0, r"symbols 0 \.\.\. 2 or NaN: .* got 3"),
        (STATES.CategoricalStates(2, 3), -1.0, "symbols .* got -1"),
    ],
)
def test_observations_that_no_state_emits_are_refused(
    emission: StateEmission, bad: float, words: str
) -> None:
    """A negative symbol would be read from the end, a count of 2.5 scored without a word."""
    model = ds.models.HiddenMarkov(emission)
    y = torch.tensor([0.0, float("nan"), 1.0, bad])
    with pytest.raises(ValueError, match=f"`y` must hold {words}"):
        ds.filter(model, y)
    with pytest.raises(ValueError, match=f"`y` must hold {words}"):
        ds.fit(model, y, progress=False)


@pytest.mark.parametrize(
    "emission",
    [
        STATES.PoissonStates(3),
        STATES.BernoulliStates(3),
        STATES.CategoricalStates(3, 2),
        STATES.GaussianStates(3),
        STATES.GaussianStates(3, covariance="diagonal"),
        STATES.MixtureStates(3),
        STATES.RegressionStates(3, 1, lags=1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_learning_leaves_a_state_that_is_never_reached_finite(emission: StateEmission) -> None:
    """Oracle: the same model without that state reaches the same likelihood."""
    start = torch.tensor([0.5, 0.5, 0.0])
    moves = torch.tensor([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 1.0]])
    model = ds.models.HiddenMarkov(emission, initial=start, transition=moves)
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 2, (40,), generator=generator).double()
    y = y + 0.1 * torch.rand(40, generator=generator) * (
        emission.readable().keys() >= {"raw_scale"}
    )
    method = ds.inference.BaumWelch(max_iterations=5)
    ds.fit(model, y, method=method, progress=False)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    smoothed = ds.smooth(model, y)
    assert bool(smoothed.mean.isfinite().all()) and bool((smoothed.mean[:, 2] == 0).all())
    assert bool(smoothed.log_likelihood.isfinite().all())


def test_a_summary_shows_probabilities_and_rates() -> None:
    model = ds.models.HiddenMarkov(STATES.PoissonStates(2))
    y = torch.tensor([0.0, 1, 0, 9, 8, 11, 0, 1, 1, 10, 9, 0] * 3)
    fit = ds.fit(model, y, progress=False)
    text = fit.summary()
    assert "logits" not in text and "log_rate" not in text
    rows = {line.split()[0] + line.split()[1]: float(line.split()[2])
            for line in text.splitlines() if line.startswith(("transition[", "initial["))
            and "," in line}  # fmt: skip
    expected = model.log_transition()[0].exp().detach()
    for i in range(2):
        for j in range(2):
            assert rows[f"transition[{i},{j}]"] == pytest.approx(float(expected[i, j]), abs=5e-4)
    rates = [float(line.split()[2]) for line in text.splitlines() if "emission.rate[" in line]
    assert min(rates) < 1 and max(rates) > 8


@pytest.mark.parametrize(
    ("emission", "names"),
    [
        (STATES.GaussianStates(2, 2), {"mean", "cov"}),
        (STATES.GaussianStates(2, 2, covariance="diagonal"), {"mean", "sd"}),
        (STATES.RegressionStates(2, 2, 1, covariance="tied"), {"coefficient", "cov"}),
        (STATES.MixtureStates(2, 2), {"weight", "mean", "sd"}),
        (STATES.BernoulliStates(2, 2), {"probability"}),
        (STATES.CategoricalStates(2, 3), {"probability"}),
    ],
)
def test_parameters_are_shown_in_the_units_of_the_data(
    emission: StateEmission, names: set[str]
) -> None:
    held = dict(emission.named_parameters())
    shown = emission.readable()
    assert set(shown) == set(held) and {part.name for part in shown.values()} == names
    assert all(part.value.shape[0] == held[key].shape[0] for key, part in shown.items())


def test_modes_that_switch_are_summarised_by_probabilities() -> None:
    mode = ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]])
    model = ds.models.SwitchingLinearGaussian([mode, mode])
    shown = model.readable()
    torch.testing.assert_close(shown["transition_logits"][1].sum(-1), torch.ones(2).double())
    assert set(shown) == {name for name, _ in model.named_parameters()}
