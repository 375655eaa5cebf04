"""An exact filter with doubts against the extended one, which shares no line with it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.inference import Extended, Gate, Huber, Kalman, StudentT

F64 = torch.float64
ROBUST = [Gate(), Gate(separately=True), StudentT(), Huber()]


def _case() -> tuple[ds.models.LinearGaussian, Tensor]:
    model = ds.models.LinearGaussian(
        [[0.9, 0.2], [0.0, 0.8]],
        [[0.3, 0.1], [0.1, 0.4]],
        [[1.0, 0.0], [0.5, 1.0]],
        [[0.5, 0.2], [0.2, 0.7]],
        m0=[1.0, -1.0],
        P0=[[1.0, 0.2], [0.2, 2.0]],
    )
    y = ds.simulate(model, 25, num_samples=2, generator=torch.Generator().manual_seed(0)).y
    y[0, 5] += 30
    y[1, 7, 1] -= 20
    y[1, 3:5, 0] = torch.nan
    return model, y


@pytest.mark.parametrize("robust", ROBUST)
def test_equal_to_the_extended_filter_of_a_proper_start(
    robust: Gate | StudentT | Huber,
) -> None:
    model, y = _case()
    ours, theirs = (ds.smooth(model, y, method=m(robust=robust)) for m in (Kalman, Extended))
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert ours.trust is not None and theirs.trust is not None
    torch.testing.assert_close(ours.trust, theirs.trust, equal_nan=True)
    running = ds.online(model, Kalman(robust=robust))
    filtered = ds.filter(model, y, method=Kalman(robust=robust))
    for t in range(25):
        if t:
            running.predict()
        running.update(y[1, t])
    torch.testing.assert_close(running.mean, filtered.mean[1, -1])
    assert running.log_likelihood == pytest.approx(float(filtered.log_likelihood[1].sum()))
    assert ds.forecast(model, y, 2, method=Kalman(robust=robust)).mean.shape == (2, 2, 2)


def test_a_gate_on_a_track_that_starts_diffuse() -> None:
    """Route: the plain smoother of the track without the outlier."""
    model = ds.models.ConstantVelocity(2, 1.0, diffusion=0.1, noise_variance=0.1)
    noise = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    y = torch.arange(20, dtype=F64)[:, None] + 0.3 * noise
    good = y.clone()
    good[10] = torch.nan
    y[10] += 50
    found = ds.smooth(model, y, method=Kalman(robust=Gate()))
    expected = ds.smooth(model, good)
    torch.testing.assert_close(found.mean, expected.mean)
    assert found.trust is not None and found.trust[10].tolist() == [0.0, 0.0]
    assert float(found.trust.sum()) == 38
    late = ds.smooth(model, y, lag=2, method=Kalman(robust=Gate()))
    torch.testing.assert_close(late.mean, ds.smooth(model, good, lag=2).mean)
    with pytest.raises(ValueError, match=r"`Kalman\(robust=Gate\(\)\)`"):
        ds.filter(model, y, method=Extended(robust=Gate()))


def test_learning_through_doubts_is_refused() -> None:
    learner = ds.inference.MaximumLikelihood(inference=Kalman(robust=Gate()))
    with pytest.raises(ValueError, match="does not learn"):
        ds.fit(ds.models.LocalLevel(), torch.zeros(5), method=learner, progress=False)


def test_without_doubts_all_is_trusted() -> None:
    model, y = _case()
    trust = Kalman().trust(model, ds.as_series(model, y))
    assert bool(((trust == 1) | y.isnan()).all())
    assert ds.filter(model, y).trust is None
