from __future__ import annotations

import pytest
import torch

from deepssm.core.model import Series
from deepssm.core.pyro_sites import seeded
from deepssm.inference.guides.linearized_guide import LinearizedGuide
from deepssm.inference.variational.overshooting import forecast_score
from deepssm.inference.variational.svi import SVI
from deepssm.models.deep.deep_markov import DeepMarkov

from ...deep_models import linear_deep


def _windows(model: DeepMarkov, count: int = 300) -> Series:
    u = torch.zeros(count, 12, 1, dtype=torch.float64)
    with torch.no_grad(), seeded(torch.Generator().manual_seed(0)):
        return Series(model(u=u)[1], u)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_the_true_spread_scores_best(factor: float) -> None:
    """300 windows of 8 steps: the gap is many standard errors, and the seeds are fixed."""
    model = linear_deep()
    series, guide = _windows(model), LinearizedGuide()
    torch.manual_seed(0)
    right = forecast_score(model, guide, series, 8, 64)
    origin = series.y[:, 4:]
    with torch.no_grad():
        raw = model.emission_net.get_parameter("raw_scale")
        scale = factor * torch.nn.functional.softplus(raw)
        raw.copy_(torch.log(torch.expm1(scale)))
    torch.manual_seed(0)
    wrong = forecast_score(model, guide, series, 8, 64)
    assert origin.isfinite().all()
    # Both are in units of their own spread, which grows with the factor.
    assert right < wrong * max(factor, 1.0)


def test_missing_steps_do_not_count_and_gradients_reach_the_model() -> None:
    model = linear_deep()
    series = _windows(model, 4)
    torch.manual_seed(0)
    score = forecast_score(model, LinearizedGuide(), series, 5)
    holes = series.y.clone()
    holes[:, -1] = torch.nan
    torch.manual_seed(0)
    fewer = forecast_score(model, LinearizedGuide(), Series(holes, series.u), 5)
    assert score != fewer
    gradients = torch.autograd.grad(fewer, [*model.transition_net.parameters()])
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


def test_training_takes_the_option() -> None:
    series = _windows(linear_deep(), 20)
    model = linear_deep(seed=5)
    model.initialized.fill_(False)
    method = SVI(steps=10, window=None, report_every=5, overshoot=4, overshoot_weight=0.5)
    learned = method.fit(model, series, progress=False)
    assert len(learned.history) == 2
