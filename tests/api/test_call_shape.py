"""One shape of call: what a verb must have, then `u`, then names; old shapes warn at first."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.inference import Particle
from deepssm.io import frames

MUST = {
    "filter": "model y", "smooth": "model y", "disturbances": "model y",
    "log_likelihood": "model y", "sample_posterior": "model y", "impute": "model y",
    "forecast": "model y horizon", "simulate": "model time", "fit": "model y",
    "backtest": "model y",
}  # fmt: skip
DRAWING = ("filter", "smooth", "log_likelihood", "sample_posterior", "impute", "forecast",
           "simulate", "fit", "backtest", "counterfactual")  # fmt: skip
METHODS = ("filter", "smooth", "disturbances", "log_likelihood", "sample_posterior", "impute",
           "forecast", "counterfactual")  # fmt: skip


def names(function: Callable[..., object], kind: inspect._ParameterKind) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is kind]


def by_place(function: Callable[..., object]) -> list[str]:
    return names(function, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def by_name(function: Callable[..., object]) -> list[str]:
    return names(function, inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize("verb", list(MUST))
def test_inputs_come_next_and_everything_else_by_name(verb: str) -> None:
    function = getattr(ds, verb)
    assert by_place(function) == [*MUST[verb].split(), "u"]
    assert "dt" in by_name(function) and ("lengths" in by_name(function)) == (verb != "simulate")


def test_verbs_with_another_must() -> None:
    assert by_place(ds.counterfactual) == ["model", "y", "u", "u_instead"]
    assert {"dt", "lengths", "num_samples", "method", "generator"} == set(
        by_name(ds.counterfactual)
    )
    assert by_place(ds.online) == ["model", "method"] and by_name(ds.online) == ["buffer"]
    assert by_place(ds.as_series) == ["model", "y", "u", "dt", "lengths"]


@pytest.mark.parametrize("verb", DRAWING)
def test_whatever_can_draw_takes_a_generator(verb: str) -> None:
    assert "generator" in by_name(getattr(ds, verb))


@pytest.mark.parametrize("verb", METHODS)
def test_a_fit_speaks_as_the_verbs_do(verb: str) -> None:
    """Its arguments are those of the verb, less the data that it holds."""
    own, verbs = getattr(ds.Fit, verb), getattr(ds, verb)
    held = {"model", "y", "u", "dt", "lengths", "method"}
    required = [name for name in by_place(verbs) if name not in held]
    assert by_place(own)[1 : 1 + len(required)] == required
    offered = {*by_name(own), *by_place(own)} - {"self", *required}
    assert offered == set(by_name(verbs)) - held


def data(time: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(time, 1, generator=torch.Generator().manual_seed(seed)).double()


def level() -> ds.StateSpaceModel:
    return ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], B=[[0.3]], P0=[[1.0]])


def test_shapes_that_read_well_by_place_are_those_by_name() -> None:
    u, y = data(seed=1), data()
    fit = ds.Fit(level(), ds.fit(ds.models.LocalLevel(), y, progress=False).learned,
                 ds.as_series(level(), y, u, 1.0))  # fmt: skip
    draws = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    by_place = fit.sample_posterior(3, draws[0])
    by_name = fit.sample_posterior(num_samples=3, generator=draws[1])
    assert torch.equal(by_place, by_name) and by_place.shape == (3, 20, 1)
    assert fit.counterfactual(u, 3).y.shape == (3, 20, 1)
    assert fit.impute(3).samples.shape == (3, 20, 1)
    running = ds.online(ds.models.LocalLevel(1.0, noise_variance=1.0), ds.inference.Kalman())
    assert running.update(0.3) is not None


def test_inputs_by_place_are_inputs_by_name() -> None:
    y, u, later = data(), data(seed=1), data(3, seed=2)
    by_place = ds.forecast(level(), y, 3, u, u_future=later)
    by_name = ds.forecast(level(), y, 3, u=u, u_future=later)
    torch.testing.assert_close(by_place.mean, by_name.mean, rtol=0, atol=0)
    first, second = (torch.Generator().manual_seed(0) for _ in range(2))
    drawn = ds.simulate(level(), 20, u, generator=first)
    torch.testing.assert_close(drawn.y, ds.simulate(level(), 20, u=u, generator=second).y)


def test_the_generator_moves_methods_that_have_only_a_seed() -> None:
    """Equal generators give equal draws, an advanced one others; the seed rules without one."""
    y, u, method = data(), data(seed=1), Particle(50)
    g, h = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    first = ds.filter(level(), y, u, method=method, generator=g).mean
    again = ds.filter(level(), y, u, method=method, generator=h).mean
    other = ds.filter(level(), y, u, method=method, generator=h).mean
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    seeded = ds.filter(level(), y, u, method=method).mean
    torch.testing.assert_close(seeded, ds.filter(level(), y, u, method=method).mean)
    exact = ds.filter(level(), y, u, generator=g).mean
    torch.testing.assert_close(exact, ds.filter(level(), y, u).mean, rtol=0, atol=0)


def test_a_fit_smooths_with_a_lag() -> None:
    y = data()
    fit = ds.fit(ds.models.LocalLevel(), y, progress=False)
    expected = ds.smooth(fit.model, y, lag=2)
    torch.testing.assert_close(fit.smooth(lag=2).mean, expected.mean, rtol=0, atol=0)
    with pytest.raises(ValueError, match="`lag` must be a whole number"):
        fit.smooth(lag=-1)


def test_counterfactuals_of_padded_series_are_those_of_the_series() -> None:
    """What pads a series moves nothing in it."""
    y, u = data().expand(2, -1, -1).clone(), data(seed=1)
    lengths = torch.tensor([20, 12])
    found = ds.counterfactual(level(), y, u, u + 1, lengths=lengths, num_samples=4)
    seen = found.y[:, 1, :12]
    single = ds.counterfactual(level(), y[1, :12], u[:12], u[:12] + 1, num_samples=4)
    torch.testing.assert_close(seen, single.y)
    assert not torch.allclose(found.y[0, 1, 12:], found.y[1, 1, 12:])


@pytest.mark.parametrize(
    "model", [ds.models.LocalLevel(1.0, noise_variance=1.0), ds.evaluation.SeasonalNaive(2)]
)
def test_backtests_score_no_step_after_the_end_of_a_series(
    model: ds.StateSpaceModel | ds.evaluation.SeasonalNaive,
) -> None:
    """What pads a series changes no score: zeros and 1e9 give the same table."""
    y, lengths = torch.stack([data(30), data(30, seed=1)]), torch.tensor([30, 17])
    tables = []
    for padding in (0.0, 1e9):
        y[1, 17:] = padding
        found = ds.backtest(model, y, start=10, horizon=5, lengths=lengths)
        assert found.y[..., 1, :, :].isnan().sum() == 20 - 7
        tables.append(found.scores())
    pd.testing.assert_frame_equal(*tables)
    assert bool(tables[0].notna().all(axis=None))


FRAME = pd.DataFrame({"a": [1.0, 2.0, 4.0, 3.0] * 5}, index=pd.RangeIndex(20, name="row"))
CALLS: dict[str, Callable[[ds.StateSpaceModel], object]] = {
    "filter": lambda m: ds.filter(m, FRAME),
    "smooth": lambda m: ds.smooth(m, FRAME),
    "disturbances": lambda m: ds.disturbances(m, FRAME),
    "log_likelihood": lambda m: ds.log_likelihood(m, FRAME),
    "sample_posterior": lambda m: ds.sample_posterior(m, FRAME),
    "forecast": lambda m: ds.forecast(m, FRAME, 2),
    "impute": lambda m: ds.impute(m, FRAME),
    "fit": lambda m: ds.fit(m, FRAME, progress=False),
    "backtest": lambda m: ds.backtest(m, FRAME, start=10, horizon=5),
}


@pytest.mark.parametrize("verb", list(CALLS))
def test_a_frame_is_read_once(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count, read = 0, frames.from_frame

    def counting(y: object, *, regular: bool = True) -> frames.FrameData:
        nonlocal count
        count += 1
        return read(y, regular=regular)

    monkeypatch.setattr(frames, "from_frame", counting)
    CALLS[verb](ds.models.LocalLevel())
    assert count == 1
