from __future__ import annotations

import torch
from torch.distributions import Normal

from deepssm.core.model import Series
from deepssm.inference.guides.chain_posterior import ChainPosterior
from deepssm.inference.guides.recurrences.chain_path import chain_path
from deepssm.linear import matrix_scan

from ...deep_models import neural_deep


def test_path_and_gradient_are_those_of_the_parallel_scan() -> None:
    """Three particles of two series share the gates; entry 0 of the gates changes nothing."""
    g = torch.Generator().manual_seed(0)
    gates = torch.randn(2, 6, 3, 3, generator=g, dtype=torch.float64).requires_grad_()
    drive = torch.randn(3, 2, 6, 3, generator=g, dtype=torch.float64).requires_grad_()
    weight = torch.randn(3, 2, 6, 3, generator=g, dtype=torch.float64)
    results = []
    for route in (chain_path, matrix_scan):
        path = route(gates, drive)
        results.append((path, *torch.autograd.grad((weight * path).sum(), (gates, drive))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    assert torch.equal(results[0][1][:, 0], torch.zeros(2, 3, 3, dtype=torch.float64))


def test_density_of_a_draw_is_exact_however_far_it_runs_away() -> None:
    """States of 1e20 with noise of 0.1: the noise that made them is not lost in their digits."""
    model, shape = neural_deep(), (1, 20, 2)
    chol = 0.1 * torch.eye(2, dtype=torch.float64).expand(1, 20, 2, 2)
    gates = 12 * torch.eye(2, dtype=torch.float64).expand(1, 20, 2, 2)
    drive = torch.zeros(shape, dtype=torch.float64)
    posterior = ChainPosterior(
        model, Series(drive), gates, drive, chol, torch.ones(1, 20, dtype=torch.bool)
    )
    torch.manual_seed(0)
    noise = torch.randn(shape, dtype=torch.float64)
    torch.manual_seed(0)
    z = posterior.sample()
    assert z.abs().max() > 1e19
    scale = torch.tensor(0.1, dtype=torch.float64)
    expected = Normal(0.0, scale).log_prob(scale * noise).sum(-1)
    torch.testing.assert_close(posterior.step_log_prob(z), expected, rtol=1e-12, atol=1e-12)
