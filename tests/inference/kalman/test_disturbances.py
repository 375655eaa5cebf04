"""Smoothed noises and auxiliary residuals against the dense Gaussian, a book and statsmodels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import deepssm as ds
from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from deepssm.inference.kalman.autograd import autograd_log_likelihood
from deepssm.inference.kalman.disturbances import offset_scores, smoothed_disturbances
from tests import oracles
from tests.inference.kalman.cases import CASES, close, make

NAMES = [name for name in CASES if name != "inputs"]


def blocks(rows: list[list[Tensor]]) -> Tensor:
    axes = torch.broadcast_shapes(*(x.shape[:-2] for row in rows for x in row))
    return torch.cat([torch.cat([x.expand(*axes, -1, -1) for x in row], -1) for row in rows], -2)


def with_noises(params: LinearParameters) -> LinearParameters:
    """Oracle: `y` has the same distribution with state `(z, w, v)` and noiseless emission."""
    (mean, P0, diffuse), (A, b, Q), (C, d, R) = params
    n, p = A.shape[-1], C.shape[-2]

    def pad(x: Tensor, rows: int, cols: int) -> Tensor:
        return functional.pad(x, (0, cols, 0, rows))

    start = blocks(
        [[pad(P0, n, n), P0.new_zeros(2 * n, p)], [P0.new_zeros(p, 2 * n), R[..., 0, :, :]]]
    )
    both = torch.cat([torch.cat([Q, Q], -1)] * 2, -2)
    zero = R.new_zeros(p, 2 * n)
    return LinearParameters(
        GaussianInitial(
            functional.pad(mean, (0, n + p)),
            start,
            None if diffuse is None else pad(diffuse, n + p, 0),
        ),
        LinearConditional(
            pad(A, n + p, n + p),
            functional.pad(b, (0, n + p)),
            blocks([[both, zero.mT], [zero, R]]),
        ),
        LinearConditional(
            blocks([[C, torch.zeros_like(C), torch.eye(p).to(C)]]), d, torch.zeros_like(R)
        ),
    )


@pytest.mark.parametrize("name", NAMES)
def test_noises_are_the_conditional_gaussian(name: str) -> None:
    model, y = make(name)
    found = smoothed_disturbances(model, Series(y))
    mean, cov, _ = oracles.smooth(with_noises(model.given), y)
    n, p = model.state_dim, model.obs_dim
    w, v = slice(n, 2 * n), slice(2 * n, 2 * n + p)
    close(found.state[..., 1:, :], mean[..., 1:, w])
    close(found.state_cov[..., 1:, :, :], cov[..., 1:, w, w], atol=1e-8)
    close(found.observation, mean[..., v])
    close(found.observation_cov, cov[..., v, v], atol=1e-8)
    assert not found.state[..., 0, :].any() and not found.state_cov[..., 0, :, :].any()


@pytest.mark.parametrize("name", ["time-varying", "rank-1 Q", "all diffuse"])
def test_auxiliary_residuals_are_noises_over_their_deviations(name: str) -> None:
    model, y = make(name, time=9)
    found = smoothed_disturbances(model, Series(y))
    _, (_, _, Q), (_, _, R) = model.given
    everywhere = torch.ones_like(found.state, dtype=torch.bool)
    for mean, cov, prior, residual, seen in (
        (found.state, found.state_cov, Q, found.state_residual, everywhere),
        (found.observation, found.observation_cov, R, found.observation_residual, ~y.isnan()),
    ):
        explained = (prior - cov).diagonal(dim1=-2, dim2=-1)
        explained = explained.expand(residual.shape)
        known = ~residual.isnan()
        torch.testing.assert_close(
            residual[known], (mean / explained.sqrt())[known], rtol=1e-6, atol=1e-8
        )
        assert known.any() and not mean[1:][(~known & seen)[1:]].abs().gt(1e-9).any()
    assert found.state_residual[0].isnan().all()
    assert torch.equal(
        found.observation_residual.isnan() | y.isnan(), found.observation_residual.isnan()
    )


def test_residuals_of_the_right_model_have_unit_variance() -> None:
    """4000 series, 5 standard errors: fails by chance with probability below 1e-4."""
    params = oracles.random_linear_gaussian(2, 2, 1, seed=5)
    model = ds.models.LinearGaussian(
        *(params.transition.matrix[0], params.transition.cov[0]),
        *(params.emission.matrix[0], params.emission.cov[0]),
        b=params.transition.offset[0], d=params.emission.offset[0],
        m0=params.initial.mean, P0=params.initial.cov,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    y = ds.simulate(model, 5, num_samples=4000, generator=generator).y
    found = smoothed_disturbances(model, Series(y))
    for residual in (found.state_residual[:, 1:], found.observation_residual):
        assert (residual.square().mean(0) - 1).abs().max() < 5 * (2 / 4000) ** 0.5
        assert residual.mean(0).abs().max() < 5 / 4000**0.5


def test_scores_are_those_of_the_recursion_itself() -> None:
    """Oracle: autograd through the torch loop, which knows no smoother."""
    model, y = make("time-varying")
    r, _, u, _ = offset_scores(model.given, y)
    start, transition, emission = model.given
    b, d = (x.offset.clone().requires_grad_() for x in (transition, emission))
    moved = LinearParameters(start, transition._replace(offset=b), emission._replace(offset=d))
    by_b, by_d = torch.autograd.grad(autograd_log_likelihood(moved, y).sum(), (b, d))
    close(r, by_b)
    close(u, by_d)


# statsmodels 0.15.0, `UnobservedComponents(nile, "llevel", use_exact_diffuse=True)` smoothed at
# (15099.0, 1469.1): year, noise, its variance given the data, residual.
NILE_NOISE = [
    (1871, 8.331680873204165, 4032.1579418084775, 0.07919919565774919),
    (1877, -282.6404309138327, 2367.7520550473328, -2.5049484822921317),
    (1913, -343.45326925090154, 2326.7568698219493, -3.0390235542109325),
]
NILE_STEP = [
    (1872, -0.8106545049886905, 1364.3316608803332, -0.07919919565774922),
    (1899, -48.65513196524185, 1242.7116019354694, -3.233713737441641),
    (1970, -5.679303057880546, 1364.331660880336, -0.554855652207861),
]


def nile() -> ds.Disturbances:
    return ds.disturbances(ds.models.LocalLevel(1469.1, noise_variance=15099.0), ds.data.nile())


def test_nile_noises_are_those_of_statsmodels() -> None:
    found = nile()
    for year, *expected in NILE_NOISE:
        i = year - 1871
        actual = found.observation[i, 0], found.observation_cov[i, 0, 0]
        assert [*map(float, actual), float(found.observation_residual[i, 0])] == pytest.approx(
            expected, rel=1e-9
        )
    for year, *expected in NILE_STEP:
        i = year - 1871
        actual = found.state[i, 0], found.state_cov[i, 0, 0]
        assert [*map(float, actual), float(found.state_residual[i, 0])] == pytest.approx(
            expected, rel=1e-9
        )


def test_correlated_noises_and_gaps_are_those_of_statsmodels() -> None:
    """statsmodels 0.15.0, `MLEModel` with a selection matrix; it leaves missing rows at zero."""
    model = ds.models.LinearGaussian(
        [[0.9, 0.4], [-0.2, 0.7]], [[0.8, 0.4], [0.4, 0.2]], [[1.0, 0.5], [0.3, -1.0]],
        [[0.5, 0.2], [0.2, 0.3]], d=[0.1, -0.2], m0=[0.5, -0.5], P0=[[1.0, 0.3], [0.3, 2.0]],
    )  # fmt: skip
    nan = float("nan")
    y = [[1.2, -0.3], [0.4, nan], [nan, nan], [-1.1, 0.8], [nan, 0.5], [2.0, -1.5]]
    found = ds.disturbances(model, y)
    seen = ~torch.tensor(y).isnan()
    expected = [
        -0.00996556745658,
        -0.192141188715844,
        -0.246128513459653,
        0.00971555978398,
        0.47737892136378,
        0.733161197313239,
        0.041908845360324,
        -0.716331238279794,
    ]
    close(found.observation[seen], torch.tensor(expected, dtype=torch.float64))
    steps = [
        -0.33211652181833,
        -0.279462995381501,
        -0.855325771424475,
        0.460851088272546,
        1.949877121617907,
    ]
    close(found.state[1:, 0], torch.tensor(steps, dtype=torch.float64))
    variances = [
        0.265525805768859,
        0.444398365187745,
        0.339334756167431,
        0.457262829099603,
        0.310985201966781,
    ]
    close(found.state_cov[1:, 0, 0], torch.tensor(variances, dtype=torch.float64))
    corner = [[0.252611513843917, 0.015655391109951], [0.015655391109951, 0.07379487677075]]
    close(found.observation_cov[3], torch.tensor(corner, dtype=torch.float64))


def test_the_break_of_1899_and_the_outlier_of_1913_come_first() -> None:
    """Durbin & Koopman (2012), figure 2.8; 1877 is next once the neighbours of 1899 are passed."""
    unusual = nile().unusual(2.5)
    found = [(date.year, name) for date, name in unusual.index]
    assert found[:2] == [(1899, "level"), (1913, "nile")] and (1877, "nile") in found
    assert len(found) == 5 and unusual.abs().is_monotonic_decreasing


def test_a_step_that_alone_fixes_a_state_has_no_conditioning_check() -> None:
    model = ds.models.LocalLevel(0.5, noise_variance=1.0) + ds.models.Regression(1)
    u = torch.zeros(7, 1)
    u[4] = 1.0
    y = torch.randn(7, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ds.disturbances(model, y, u)
    assert torch.nonzero(found.observation_residual.isnan())[:, 0].tolist() == [4]
    assert found.state_residual[:, 1].isnan().all()
    torch.testing.assert_close(found.observation_cov[4, 0, 0], torch.ones((), dtype=torch.float64))


def test_singular_noises_leave_no_negative_variance() -> None:
    """A walk seen without noise: its steps are the differences, known exactly."""
    model = ds.models.LinearGaussian([[1.0]], [[0.3]], [[1.0]], [[0.0]], initial="diffuse")
    y = torch.randn(50, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ds.disturbances(model, y)
    close(found.state[1:], y[1:] - y[:-1])
    assert (found.state_cov >= 0).all() and found.state_cov.max() < 1e-14
    assert not found.observation.any() and found.observation_residual.isnan().all()


def test_batches_and_single_precision() -> None:
    model, y = make("batch of parameters")
    rounded = ds.models.LinearGaussian(*([[0.5]] for _ in range(4)), P0=[[1.0]]).float()
    assert ds.disturbances(rounded, [0.1, 0.2]).state_cov.dtype == torch.float32
    frame = ds.disturbances(model, y).to_frame()
    assert list(frame) == ["y0", "y1", "z0", "z1", "z2"] and len(frame) == 14


def test_disturbances_need_a_linear_model() -> None:
    model = ds.models.NonlinearGaussian(
        lambda z, u, dt: z.sin(), lambda z, u: z, Q=[[1.0]], R=[[1.0]], m0=[0.0], P0=[[1.0]]
    )
    with pytest.raises(ValueError, match="need a linear-Gaussian model, got NonlinearGaussian"):
        ds.disturbances(model, torch.zeros(3, 1))
