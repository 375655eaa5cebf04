"""Stacks and heads: pieces, generation, gaps, and that they learn what they are for."""

from __future__ import annotations

import math

import pytest
import torch

from deepssm.models import (
    S4,
    S4D,
    S5,
    CausalAttention,
    CausalCNN,
    Mamba,
    ResidualBlock,
    SequenceClassifier,
    SequenceForecaster,
    SequenceLayer,
    SequenceModel,
    SequenceRegressor,
    param_groups,
)

F64 = torch.float64


def hybrid(input_dim: int = 2, output_dim: int = 3) -> SequenceModel:
    """A convolution in front, then attention between state spaces."""
    layers: list[SequenceLayer] = [
        CausalCNN(8, depth=2),
        S4(8, 4),
        CausalAttention(8, 2),
        S4D(8, 4),
        Mamba(8, 4),
        S5(8, 4),
    ]
    return SequenceModel(input_dim, output_dim, [ResidualBlock(layer) for layer in layers])


def test_pieces_of_a_hybrid_equal_the_whole() -> None:
    model = hybrid().double()
    u, mask = torch.randn(2, 50, 2, dtype=F64), torch.rand(2, 50) > 0.2
    u = torch.where(mask[..., None], u, torch.nan)
    whole = model(u, mask=mask)
    first, state = model.run(u[:, :20], mask=mask[:, :20])
    second, _ = model.run(u[:, 20:], state, mask=mask[:, 20:])
    joined = torch.cat([first, second], 1)
    torch.testing.assert_close(joined, whole, rtol=1e-9, atol=1e-9)
    assert joined.isfinite().all()


def test_generation_feeds_outputs_back() -> None:
    model = hybrid(3, 3).double()
    prompt = torch.randn(2, 10, 3, dtype=F64)
    made = model.generate(prompt, 5, torch.tanh)
    series = prompt
    for _ in range(5):
        series = torch.cat([series, torch.tanh(model(series)[:, -1:])], 1)
    torch.testing.assert_close(made, series[:, 10:], rtol=1e-9, atol=1e-9)


def test_classifier_ignores_padding() -> None:
    stack = SequenceModel(2, 4, [ResidualBlock(S4D(8, 4)), ResidualBlock(S5(8, 4))])
    model = SequenceClassifier(stack).double()
    u = torch.randn(3, 30, 2, dtype=F64)
    mask = torch.ones(3, 45, dtype=torch.bool)
    mask[:, 30:] = False
    padded = torch.cat([u, torch.full((3, 15, 2), torch.nan, dtype=F64)], 1)
    torch.testing.assert_close(model(padded, mask=mask), model(u))


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="`blocks` must all have one size"):
        SequenceModel(1, 1, [S5(4, 4), S5(6, 4)])
    with pytest.raises(ValueError, match="`stack` must have an even `output_dim`"):
        SequenceRegressor(SequenceModel(1, 3, [S5(4, 4)]))
    model = hybrid()
    with pytest.raises(ValueError, match="`state` must be a tuple of 6 states"):
        model.run(torch.randn(1, 2, 2), (torch.zeros(1),))
    with pytest.raises(ValueError, match="`steps` must be 1 or more, got 0"):
        model.generate(torch.randn(1, 2, 2), 0, torch.tanh)
    with pytest.raises(ValueError, match="`horizon` must be 1 or more, got 0"):
        SequenceForecaster(SequenceModel(2, 2, [S5(4, 4)]))(torch.randn(5, 1), 0)


def test_forecaster_learns_a_seasonal_series() -> None:
    """Sines of random phase, a third of the past missing: error below half the noise-free sd."""
    torch.manual_seed(0)
    stack = SequenceModel(2, 2, [ResidualBlock(S4D(16, 8))])
    model = SequenceForecaster(stack)
    optimizer = torch.optim.AdamW(param_groups(stack, lr=1e-2))
    times = torch.arange(60.0) * 2 * math.pi / 12
    for step in range(150):
        y = 5 + 3 * torch.sin(times + 2 * math.pi * torch.rand(32, 1))[..., None]
        past = torch.where(torch.rand(32, 48, 1) < 0.3, torch.nan, y[:, :48])
        forecast = model(past, 12)
        if step == 149:
            error = (forecast.mean - y[:, 48:]).square().mean().sqrt().item()
            assert error < 1.0, error
            assert forecast.event_shape == (1,) and forecast.batch_shape == (32, 12)
        loss = -forecast.log_prob(y[:, 48:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_forecasts_do_not_depend_on_the_unit(unit: float) -> None:
    model = SequenceForecaster(SequenceModel(2, 2, [ResidualBlock(S5(8, 4))])).double()
    y = torch.randn(2, 12, 1, dtype=F64).cumsum(1)
    plain, scaled = model(y, 3), model(unit * y, 3)
    torch.testing.assert_close(scaled.mean, unit * plain.mean)
    torch.testing.assert_close(scaled.stddev, unit * plain.stddev)
    constant = model(torch.full((1, 12, 1), 0.1 * unit, dtype=F64), 3)
    assert bool(constant.mean.isfinite().all()) and bool((constant.stddev > 0).all())


def test_regressor_is_a_distribution_for_each_step() -> None:
    model = SequenceRegressor(SequenceModel(2, 4, [ResidualBlock(S5(8, 4))]))
    found = model(torch.randn(3, 9, 2))
    assert found.batch_shape == (3, 9) and found.event_shape == (2,)
    assert found.log_prob(torch.zeros(3, 9, 2)).isfinite().all()
