from __future__ import annotations

import pytest
import torch
from scipy import stats

from deepssm import evaluation as ev
from deepssm.core.results import Forecast


def _case(stretch: float, size: int = 4000, seed: int = 0) -> tuple[Forecast, torch.Tensor]:
    """Errors of two components, `stretch` times as large as the forecast says."""
    generator = torch.Generator().manual_seed(seed)
    sd = torch.tensor([1.0, 5.0], dtype=torch.float64)
    mean = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    cov = torch.diag(sd**2).expand(size, 2, 2)
    return Forecast(mean, cov), mean + stretch * sd * noise


def test_reliability_of_a_right_forecast_stays_in_its_band() -> None:
    """Bonferroni over 19 levels at band 0.99999: a random seed fails in fewer than 1 in 1e3."""
    forecast, y = _case(1.0)
    y[5:90, 0] = float("nan")
    curve = ev.reliability(ev.pit(forecast, y), band=0.99999)
    assert curve.count == 8000 - 85 and len(curve.level) == 19
    assert ((curve.lower <= curve.coverage) & (curve.coverage <= curve.upper)).all()
    assert curve.error < 0.02


@pytest.mark.parametrize("stretch", [0.5, 2.0])
def test_reliability_of_wrong_spread_is_the_closed_form(stretch: float) -> None:
    """Coverage at level l is 2 Phi(q_l / stretch) - 1; fails at random once in 1e4 or rarer."""
    curve = ev.reliability(ev.pit(*_case(stretch)))
    expected = 2 * stats.norm.cdf(stats.norm.ppf((1 + curve.level.numpy()) / 2) / stretch) - 1
    margin = 4.6 * (0.25 / curve.count) ** 0.5
    assert abs(curve.coverage.numpy() - expected).max() < margin
    assert ((curve.coverage < curve.lower) | (curve.coverage > curve.upper)).all()


def test_reliability_counts_intervals_directly() -> None:
    forecast, y = _case(1.3, size=300)
    curve = ev.reliability(ev.pit(forecast, y), levels=(0.5, 0.9))
    for level, coverage in zip((0.5, 0.9), curve.coverage, strict=True):
        assert coverage == pytest.approx(ev.covered(y, *forecast.interval(level)).mean().item())


@pytest.mark.parametrize("level", [None, 0.8])
def test_recalibration_finds_the_stretch_and_puts_coverage_right(level: float | None) -> None:
    forecast, y = _case(1.7)
    factor = ev.recalibration_factor(forecast, y, level)
    assert factor.shape == (2,) and (factor / 1.7 - 1).abs().max() < 0.06
    repaired = ev.rescale(forecast, factor)
    inside = ev.covered(y, *repaired.interval(level or 0.8)).mean().item()
    assert inside == pytest.approx(0.8, abs=0.001 if level else 0.02)


def test_rescaling_draws_stretches_them_about_the_mean() -> None:
    forecast, _ = _case(1.0, size=3)
    samples = torch.randn(400, 3, 2, dtype=torch.float64)
    factor = torch.tensor([2.0, 0.5], dtype=torch.float64)
    found = ev.rescale(forecast._replace(samples=samples), factor)
    assert found.samples is not None
    torch.testing.assert_close(found.samples - forecast.mean, (samples - forecast.mean) * factor)
    torch.testing.assert_close(found.cov[0], torch.diag(torch.tensor([4.0, 6.25]).double()))


@pytest.mark.parametrize(("stretch", "word"), [(2.0, "narrow"), (0.4, "wide"), (1.0, None)])
def test_a_sentence_says_what_is_wrong(stretch: float, word: str | None) -> None:
    sentences = ev.calibration_warnings(*_case(stretch, size=400))
    if word is None:
        assert sentences == []
    else:
        assert sentences[0].startswith(f"Intervals are too {word}: the 90% band covered ")


def test_no_observation_no_curve() -> None:
    with pytest.raises(ValueError, match="`pit` must hold a number"):
        ev.reliability(torch.full((3,), float("nan")))
