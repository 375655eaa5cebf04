"""Observations out of order, and series in blocks, against the batch filter in order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference.kalman.method import Kalman
from deepssm.inference.kalman.online import OnlineKalman
from tests.inference.kalman.cases import close, make

NAN = float("nan")


def tracking(time: int = 8) -> tuple[ds.models.ConstantVelocity, Tensor, list[float]]:
    """A model in continuous time, its data and uneven steps."""
    y = torch.randn(time, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return ds.models.ConstantVelocity(dims=2), y, [0.1 + 0.05 * t for t in range(time)]


def run(running: ds.inference.BufferedFilter, y: Tensor, dt: list[float]) -> None:
    for t, row in enumerate(y):
        if t > 0:
            running.predict(dt=dt[t])
        running.update(row)


@pytest.mark.parametrize("back", [0, 1, 4])
def test_a_late_observation_counts_where_it_belongs(back: int) -> None:
    model, y, dt = tracking()
    batch = ds.filter(model, y, dt=dt)
    early = y.clone()
    early[-1 - back, 1] = NAN
    late = torch.where(torch.tensor([True, False]), NAN, y[-1 - back])
    running = ds.inference.BufferedFilter(ds.online(model), 4)
    run(running, early, dt)
    gained = running.update(late, back=back)
    without = ds.log_likelihood(model, early, dt=dt).detach().sum()
    close(running.mean, batch.mean[-1])
    close(running.cov, batch.cov[-1])
    assert running.log_likelihood == pytest.approx(float(batch.log_likelihood.sum()))
    assert gained == pytest.approx(float(batch.log_likelihood.sum() - without))


def test_late_parts_of_an_observation_with_correlated_noise() -> None:
    """Taken in twice, each part in its step, in the wrong order; with inputs."""
    model = ds.models.LinearGaussian(
        [[0.9]], [[1.0]], [[1.0], [0.5]], [[1.0, 0.6], [0.6, 0.5]], B=[[2.0]], D=[[1.0], [0.0]],
        P0=[[1.0]],
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    y, u = (torch.randn(5, k, generator=generator, dtype=torch.float64) for k in (2, 1))
    running = ds.inference.BufferedFilter(ds.online(model), 3)
    for t in range(5):
        if t > 0:
            running.predict(u=u[t])
        if t not in (2, 3):
            running.update(y[t], u[t])
    first = torch.tensor([True, False])
    running.update(torch.where(first, NAN, y[3]), u[3], back=1)
    running.update(y[2], u[2], back=2)
    running.update(torch.where(first, y[3], NAN), back=1)
    batch = ds.filter(model, y, u)
    close(running.mean, batch.mean[-1])
    close(running.cov, batch.cov[-1])


def test_a_second_observation_of_a_component_is_a_further_one() -> None:
    walk = ds.models.LinearGaussian([[1.0]], [[1.0]], [[1.0]], [[2.0]], P0=[[1.0]])
    twice = ds.models.LinearGaussian(
        [[1.0]], [[1.0]], [[1.0], [1.0]], [[2.0, 0.0], [0.0, 2.0]], P0=[[1.0]]
    )
    running = ds.online(walk, buffer=1)
    running.update([1.0])  # type: ignore[arg-type]
    running.predict()
    running.update([2.0])  # type: ignore[arg-type]
    running.update([0.5], back=1)  # type: ignore[arg-type,call-arg]
    close(running.mean, ds.filter(twice, [[1.0, 0.5], [2.0, NAN]]).mean[-1])


def test_a_saved_buffer_goes_on_bit_for_bit() -> None:
    model, y, dt = tracking()
    whole = ds.inference.BufferedFilter(ds.online(model), 3)
    run(whole, y[:6], dt)
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    second = ds.inference.BufferedFilter(ds.online(model), 3)
    second.load_state_dict(state)
    for running in (whole, second):
        running.update(y[6], back=2)
        running.predict(dt=0.3)
        running.update(y[7])
    assert torch.equal(second.mean, whole.mean) and torch.equal(second.cov, whole.cov)
    assert second.log_likelihood == whole.log_likelihood


def test_too_late_and_unfit_observations_are_refused_and_change_nothing() -> None:
    model, y, dt = tracking()
    running = ds.inference.BufferedFilter(ds.online(model), 2)
    run(running, y, dt)
    mean, total = running.mean, running.log_likelihood
    with pytest.raises(ValueError, match="`back` must be a whole number from 0 to 2"):
        running.update(y[0], back=3)
    with pytest.raises(ValueError, match="`y` must hold 2 finite"):
        running.update(torch.zeros(3), back=1)
    assert torch.equal(running.mean, mean) and running.log_likelihood == total
    with pytest.raises(ValueError, match="`state` has no buffer"):
        running.load_state_dict(ds.online(model).state_dict())
    with pytest.raises(ValueError, match="`buffer` must be a whole number"):
        ds.online(model, buffer=-1)


@pytest.mark.parametrize("name", ["constant", "rank-1 Q", "one diffuse state", "all diffuse"])
def test_blocks_are_the_whole(name: str) -> None:
    model, y = make(name, time=11)
    whole = Kalman().filter(model, Series(y))
    running = Kalman().online(model)
    blocks = [running.filter(part) for part in y.split([1, 4, 0, 2, 4])]
    for field in ("mean", "cov", "predicted_mean", "predicted_cov", "log_likelihood"):
        close(torch.cat([getattr(block, field) for block in blocks]), getattr(whole, field), 1e-8)
    assert running.log_likelihood == pytest.approx(float(whole.log_likelihood.sum()))
    assert len(blocks[2].mean) == 0 and not any(block.ill_conditioned for block in blocks)


def test_blocks_with_inputs_steps_and_single_observations_between() -> None:
    model, y, steps = tracking(9)
    dt = torch.tensor(steps, dtype=torch.float64)
    whole = ds.filter(model, y, dt=dt)
    running = ds.online(model)
    assert isinstance(running, OnlineKalman)
    running.filter(y[:4], dt=dt[:4])
    running.predict(dt=steps[4])
    running.update(y[4])
    saved = running.state_dict()
    other = Kalman().online(model)
    other.load_state_dict(saved)
    other.predict(dt=steps[5])  # a block may also follow a prediction
    close(other.filter(y[5:], dt=dt[5:]).mean, whole.mean[5:])
    close(running.filter(y[5:], dt=dt[5:]).cov, whole.cov[5:])
    driven = ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], B=[[2.0]], P0=[[1.0]])
    u = torch.arange(9.0, dtype=torch.float64)[:, None]
    fed = Kalman().online(driven)
    means = torch.cat([fed.filter(y[i : i + 3, :1], u[i : i + 3]).mean for i in (0, 3, 6)])
    close(means, ds.filter(driven, y[:, :1], u).mean)


def test_a_block_is_one_series_of_the_models_size() -> None:
    with pytest.raises(ValueError, match=r"`y` must be one series .*\(time, 2\)"):
        Kalman().online(tracking()[0]).filter(torch.zeros(3, 5, 2))


@pytest.mark.slow
def test_a_million_steps_in_the_memory_of_a_block() -> None:
    """Resident memory may grow by less than 50 MB once compiled; blocks of 10 000 steps."""
    import resource

    model = ds.models.LinearGaussian(
        [[0.9, 0.2], [-0.1, 0.8]], [[1.0, 0.2], [0.2, 0.5]], [[1.0, 0.5]], [[0.5]],
        initial="diffuse",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    running = Kalman().online(model)
    before = 0
    for block in range(101):
        y = torch.randn(10_000, 1, generator=generator, dtype=torch.float64)
        running.filter(torch.where(y > 1.3, NAN, y))
        if block == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"grown by {grown:.1f} MB")
    assert grown < 50
