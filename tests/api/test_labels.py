"""One alignment for `y`, `u`, `dt`, `u_future` and `dt_future`, in all verbs."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import deepssm as ds
from deepssm.inference.online.state import as_numbers

DAYS = pd.date_range("2024-01-01", periods=30, name="day")
CHANCE = np.random.default_rng(0)
INPUTS = pd.DataFrame(CHANCE.normal(size=(30, 2)), DAYS, ["price", "rain"])
Y = pd.Series(2 * INPUTS["price"] - INPUTS["rain"] + CHANCE.normal(size=30), DAYS, name="sales")
LATER = pd.DataFrame(
    CHANCE.normal(size=(3, 2)), pd.date_range("2024-01-31", periods=3), ["price", "rain"]
)


def model(**given: Any) -> ds.StateSpaceModel:  # noqa: ANN401
    level = ds.models.LocalLevel(0.1, noise_variance=1.0)
    return level + ds.models.Regression(2, **given)


def learner() -> ds.StateSpaceModel:
    return ds.models.LocalLevel() + ds.models.Regression(2)


def fit(m: ds.StateSpaceModel, y: Any, u: Any) -> ds.Fit:  # noqa: ANN401
    return ds.fit(m, y, u, progress=False)


VERBS: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "filter": lambda y, u: ds.filter(model(), y, u).mean,
    "smooth": lambda y, u: ds.smooth(model(), y, u).mean,
    "disturbances": lambda y, u: ds.disturbances(model(), y, u).observation,
    "log_likelihood": lambda y, u: ds.log_likelihood(model(), y, u),
    "sample_posterior": lambda y, u: ds.sample_posterior(
        model(), y, u, num_samples=2, generator=torch.Generator().manual_seed(0)
    ),
    "impute": lambda y, u: ds.impute(
        model(), y, u, num_samples=3, generator=torch.Generator().manual_seed(0)
    ).mean,
    "forecast": lambda y, u: ds.forecast(model(), y, 3, u, u_future=LATER).mean,
    "backtest": lambda y, u: ds.backtest(model(), y, u, start=20, horizon=5).forecast.mean,
    "counterfactual": lambda y, u: ds.counterfactual(
        ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], B=[[0.3, 0.1]], P0=[[1.0]]),
        y, u, u, num_samples=2, generator=torch.Generator().manual_seed(0)).y,
}  # fmt: skip


@pytest.mark.parametrize("verb", list(VERBS))
def test_rows_follow_their_labels(verb: str) -> None:
    """Rows out of order and rows more than needed are the rows of `y`; a day late is refused."""
    call = VERBS[verb]
    expected = call(Y, INPUTS)
    wide = pd.concat([INPUTS.shift(freq="60D"), INPUTS.iloc[::-1]])
    torch.testing.assert_close(call(Y, wide), expected, rtol=0, atol=0)
    for off in (INPUTS.shift(freq="1D"), INPUTS.shift(freq="365D"), INPUTS.iloc[:-1]):
        with pytest.raises(ValueError, match="`u` has no row for 2024-01"):
            call(Y, off)
    twice = pd.concat([INPUTS, INPUTS.iloc[:1]])
    with pytest.raises(ValueError, match="repeats 2024-01-01"):
        call(Y, twice)


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        (range(30), range(1, 31)),
        (range(1871, 1901), range(1872, 1902)),
        (np.arange(30) / 10, np.arange(30) / 10 + 0.05),
        ([str(d.date()) for d in DAYS], [str(d.date()) for d in DAYS.shift(1)]),
        ([d.date() for d in DAYS], [d.date() for d in DAYS.shift(1)]),
        (pd.period_range("2020-01", periods=30, freq="M"),
         pd.period_range("2020-02", periods=30, freq="M")),
        (DAYS.tz_localize("UTC"), DAYS.tz_localize("Europe/Berlin")),
        (DAYS.tz_localize("UTC"), DAYS),
        (DAYS, range(2000, 2030)),
        ([f"s{i}" for i in range(30)], [f"t{i}" for i in range(30)]),
    ],
)  # fmt: skip
def test_labels_of_every_kind_are_compared(rows: Any, others: Any) -> None:  # noqa: ANN401
    y, u = Y.set_axis(pd.Index(rows)), INPUTS.set_axis(pd.Index(rows))
    expected = ds.filter(model(), Y, INPUTS).mean
    torch.testing.assert_close(ds.filter(model(), y, u).mean, expected)
    with pytest.raises(ValueError, match="`u` (?:has|and)|`tz_localize|has times of the zone"):
        ds.filter(model(), y, u.set_axis(pd.Index(others)))


def test_one_day_in_two_forms_is_one_day() -> None:
    expected = ds.filter(model(), Y, INPUTS).mean
    text = INPUTS.set_axis(DAYS.strftime("%Y-%m-%d"))
    periods = INPUTS.set_axis(DAYS.to_period("D"))
    arrays = INPUTS.reset_index(drop=True)
    for u in (text, text.iloc[::-1], periods, periods.iloc[::-1], arrays, INPUTS.to_numpy()):
        torch.testing.assert_close(ds.filter(model(), Y, u).mean, expected, rtol=0, atol=0)
    berlin, utc = Y.tz_localize("Europe/Berlin"), INPUTS.tz_localize("Europe/Berlin")
    found = ds.filter(model(), berlin, utc.tz_convert("UTC")).mean
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_columns_follow_the_names_that_were_learnt() -> None:
    m = learner()
    found = fit(m, Y, INPUTS)
    turned, later = INPUTS[["rain", "price"]], LATER[["rain", "price"]]
    expected = found.forecast(3, u_future=LATER).mean
    torch.testing.assert_close(found.forecast(3, u_future=later).mean, expected)
    torch.testing.assert_close(ds.forecast(m, Y, 3, turned, u_future=later).mean, expected)
    torch.testing.assert_close(ds.forecast(m, Y, 3, turned.assign(z=1), u_future=later).mean,
                               expected)  # fmt: skip
    with pytest.raises(ValueError, match="`u_future` has no column 'price', but rain, snow"):
        found.forecast(3, u_future=LATER.rename(columns={"price": "snow"})[["rain", "snow"]])
    other = INPUTS.set_axis(["a", "b"], axis=1)
    torch.testing.assert_close(ds.filter(m, Y, other).mean, found.filter().mean)
    with pytest.raises(ValueError, match="`u_future` has no column 'a'"):
        ds.forecast(m, Y, 3, other, u_future=LATER)


def test_columns_of_observations_follow_the_names_that_were_learnt() -> None:
    m = ds.models.LinearGaussian(
        [[0.9]], [[1.0]], [[1.0], [2.0]], [[1.0, 0], [0, 2.0]], P0=[[1.0]]
    )
    m.learnt_columns = (("a", "b"), ())
    frame = pd.DataFrame(CHANCE.normal(size=(30, 2)), DAYS, ["a", "b"])
    expected = ds.filter(m, frame).mean
    torch.testing.assert_close(ds.filter(m, frame[["b", "a"]]).mean, expected)
    with pytest.raises(ValueError, match="`y` has no column 'b', but a, c"):
        ds.filter(m, frame.rename(columns={"b": "c"}))


def test_input_names_of_a_regression_are_names() -> None:
    named = model(input_names=("rain", "price"))
    by_place = ds.filter(model(), Y, INPUTS[["rain", "price"]].to_numpy()).mean
    for u in (INPUTS, INPUTS[["rain", "price"]], INPUTS.assign(more=0.0)):
        torch.testing.assert_close(ds.filter(named, Y, u).mean, by_place)
    with pytest.raises(ValueError, match="`u` has no column 'rain', but a, b"):
        ds.filter(named, Y, INPUTS.set_axis(["a", "b"], axis=1))
    parts = (
        ds.models.Regression(1, input_names=("rain",), name="r"),
        ds.models.Regression(1, input_names=("price",), name="p"),
    )
    both = ds.models.LocalLevel(0.1, noise_variance=1.0) + parts[0] + parts[1]
    assert both.input_names == ("rain", "price")
    torch.testing.assert_close(ds.filter(both, Y, INPUTS).mean, by_place)


def test_future_rows_are_those_that_follow() -> None:
    found = fit(learner(), Y, INPUTS)
    expected = found.forecast(3, u_future=LATER.to_numpy()).mean
    everything = pd.concat([INPUTS, LATER, LATER.shift(freq="30D")])
    for later in (LATER, LATER.iloc[::-1], everything, LATER.reset_index(drop=True)):
        torch.testing.assert_close(found.forecast(3, u_future=later).mean, expected)
    for off in (LATER.shift(freq="1D"), LATER.shift(freq="-1D"), INPUTS.iloc[:3]):
        with pytest.raises(ValueError, match="`u_future` has no row for 2024-0.* of `the steps"):
            found.forecast(3, u_future=off)
    with pytest.raises(ValueError, match="has no row for 30 of `the steps ahead`"):
        ds.forecast(learner(), Y.reset_index(drop=True), 3, INPUTS.to_numpy(),
                    u_future=LATER.set_axis(range(5, 8)))  # fmt: skip


def test_a_frame_cut_by_its_length_goes_on_after_it() -> None:
    fc = ds.forecast(ds.models.LocalLevel(1.0, noise_variance=1.0), Y, 3, lengths=torch.tensor(20))
    assert fc.index is not None and fc.index[0] == DAYS[20]


def test_labelled_steps_are_aligned_and_stamps_are_refused() -> None:
    moving = ds.models.ConstantVelocity(1, diffusion=1.0, noise_variance=1.0)
    steps = CHANCE.integers(1, 5, 30)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.cumsum(steps), "D")
    y, dt = pd.Series(CHANCE.normal(size=30), days), pd.Series(steps, days)
    expected = ds.filter(moving, y, dt=steps).mean
    torch.testing.assert_close(ds.filter(moving, y, dt=dt).mean, expected)
    blank = pd.Series(np.diff(days) / np.timedelta64(1, "D"), days[1:]).reindex(days)
    torch.testing.assert_close(ds.filter(moving, y, dt=blank).mean, expected)
    with pytest.raises(ValueError, match="`dt` has no row for"):
        ds.filter(moving, y, dt=dt.shift(freq="1D"))
    with pytest.raises(ValueError, match="a step leads from the row before"):
        ds.filter(moving, y.drop(days[5]), dt=dt)
    later = pd.Series([1.0, 2.0], [days[-1] + pd.Timedelta("1D"), days[-1] + pd.Timedelta("3D")])
    assert ds.forecast(moving, y, 2, dt=dt, dt_future=later).mean.shape == (2, 1)
    with pytest.raises(ValueError, match="`dt_future` begins at"):
        ds.forecast(moving, y, 2, dt=dt, dt_future=later.shift(freq="-9D"))


TIMES = np.cumsum(CHANCE.uniform(0.5, 2.0, 30))
STAMPS: dict[str, Any] = {
    "dates": DAYS,
    "a series of dates": pd.Series(DAYS),
    "numpy's dates": DAYS.to_numpy(),
    "date objects": [d.date() for d in DAYS],
    "times": TIMES - TIMES[0],
    "times from later on": TIMES,
    "row numbers": np.arange(30),
    "years": np.arange(1871, 1901),
    "seconds since 1970": TIMES + 1.7e9,
    "a batch of times": torch.tensor(TIMES).expand(2, -1),
}
DURATIONS: dict[str, Any] = {
    "numpy": np.diff(DAYS, prepend=DAYS[:1]),
    "a series": pd.Series(DAYS).diff(),
    "an index": pd.TimedeltaIndex(DAYS - DAYS[0]),
    "a number": pd.Timedelta("1D"),
    "python": datetime.timedelta(1),
    "a list": [datetime.timedelta(1)] * 30,
    "numpy's number": np.timedelta64(1, "D"),
}


@pytest.mark.parametrize("name", list(STAMPS))
def test_time_stamps_are_no_steps(name: str) -> None:
    moving = ds.models.ConstantVelocity(1, diffusion=1.0, noise_variance=1.0)
    y = torch.zeros(2, 30, 1) if "batch" in name else torch.zeros(30, 1)
    with pytest.raises(ValueError, match="`dt`.*(?:time stamps|dates)"):
        ds.filter(moving, y, dt=STAMPS[name])


@pytest.mark.parametrize("name", list(DURATIONS))
def test_durations_need_a_unit(name: str) -> None:
    moving = ds.models.ConstantVelocity(1, diffusion=1.0, noise_variance=1.0)
    with pytest.raises(ValueError, match="`dt`.*durations"):
        ds.filter(moving, torch.zeros(30, 1), dt=DURATIONS[name])
    if "number" in name or name == "python":
        linear = ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]])
        for running in (ds.online(moving), ds.online(linear, ds.inference.Unscented())):
            with pytest.raises(ValueError, match="`dt`.*durations"):
                running.predict(dt=DURATIONS[name])


@pytest.mark.parametrize(
    "dt",
    [
        np.ones(30),
        np.linspace(0.5, 1.5, 30),
        np.diff(np.logspace(0, 3, 30), prepend=1.0),
        np.diff(np.logspace(0, 2, 200), prepend=1.0),
        np.concatenate([[0.0], CHANCE.uniform(0.1, 3.0, 29)]),
        np.concatenate([[0.0], 2.0 ** np.arange(29)]),
    ],
)
def test_steps_are_steps(dt: np.ndarray) -> None:
    moving = ds.models.ConstantVelocity(1, diffusion=1.0, noise_variance=1.0)
    assert ds.filter(moving, torch.zeros(len(dt), 1), dt=dt).mean.isfinite().all()


def test_one_length_is_not_two() -> None:
    level = ds.models.LocalLevel(1.0, noise_variance=1.0)
    for lengths in ([5], torch.tensor([5]), [[5, 5]], np.array([5])):
        with pytest.raises(ValueError, match="`lengths` must have the batch shape"):
            ds.filter(level, torch.zeros(2, 9, 1), lengths=lengths)
        with pytest.raises(ValueError, match="`lengths` must have the batch shape"):
            ds.forecast(level, torch.zeros(2, 9, 1), 2, lengths=lengths)
    assert ds.filter(level, torch.zeros(2, 9, 1), lengths=torch.tensor(5)).mean.shape == (2, 9, 1)


def test_what_is_masked_is_missing_everywhere() -> None:
    level = ds.models.LocalLevel(1.0, noise_variance=1.0)
    plain = np.array([1.0, 2.0, np.nan, 4.0])
    masked = np.ma.array([1.0, 2.0, 1e6, 4.0], mask=[False, False, True, False])
    expected = ds.filter(level, plain)
    torch.testing.assert_close(ds.filter(level, masked), expected)
    for method in (None, ds.inference.Unscented(), ds.inference.Kalman()):
        running = ds.online(ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]],
                                                     P0=[[1.0]]), method)  # fmt: skip
        before = running.mean.clone()
        assert running.update(np.ma.masked) == 0.0
        assert running.update(masked[2]) == 0.0
        torch.testing.assert_close(running.mean, before)
    assert as_numbers(np.ma.masked, torch.zeros(1)).isnan()
    driven = ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], B=[[1.0]], P0=[[1.0]])
    with pytest.raises(ValueError, match="`u` must be finite"):
        ds.filter(driven, plain, masked)


@pytest.mark.parametrize("name", ["u", "u_future", "u_instead"])
def test_text_is_reported_where_it_stands(name: str) -> None:
    driven = ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], B=[[1.0]], P0=[[1.0]])
    text = pd.DataFrame({"a": ["x"] * 30}, DAYS)
    good, y = pd.DataFrame({"a": np.ones(30)}, DAYS), Y
    with pytest.raises(ValueError, match=f"Column a of `{name}` must hold numbers, got text"):
        if name == "u":
            ds.filter(driven, y, text)
        elif name == "u_future":
            ds.forecast(driven, y, 30, good, u_future=text)
        else:
            ds.counterfactual(driven, y, good, text)


def test_read_only_memory_makes_no_warning() -> None:
    value = np.arange(5.0)
    value.flags.writeable = False
    level = ds.models.LocalLevel(1.0, noise_variance=1.0)
    assert ds.filter(level, value).mean.shape == (5, 1)
    running = ds.online(level)
    running.update(value[:1])
    assert running.filter(value[:, None]).mean.shape == (5, 1)  # type: ignore[attr-defined]
