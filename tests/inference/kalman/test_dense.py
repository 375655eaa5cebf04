"""The loops of larger states, made to take small ones, against the dense joint Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import LinearParameters
from deepssm.inference.kalman.dense import filtering, serves
from tests import oracles
from tests.given import Given
from tests.reliability.cases import CASES, LONG, case
from tests.reliability.exact import exact
from tests.reliability.scoring import score

SHORT = [name for name in CASES if name not in LONG]
KINDS = {
    "few rows": {"state": 6, "obs": 2},
    "many rows": {"state": 3, "obs": 8},
    "varying": {"state": 4, "obs": 3, "time_varying": True, "inputs": True},
    "a batch": {"state": 4, "obs": 2, "batch": (3,)},
    "singular Q and P0": {"state": 5, "obs": 2, "process_rank": 2, "initial_rank": 1},
    "diffuse": {"state": 5, "obs": 2, "diffuse": 3},
    "diffuse, varying, a batch": {
        "state": 4, "obs": 1, "diffuse": 4, "time_varying": True, "batch": (2,)
    },
}  # fmt: skip


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_STATES", "_SIZE", "_SMOOTHER_STATES", "_SMOOTHER_SIZE"):
        monkeypatch.setattr(serves, name, 0)


def scalar(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_STATES", "_SIZE", "_SMOOTHER_STATES", "_SMOOTHER_SIZE"):
        monkeypatch.setattr(serves, name, 10**9)


def make(kind: str, time: int, *, gaps: bool, diagonal: bool) -> tuple[LinearParameters, Tensor]:
    params = oracles.random_linear_gaussian(time=time, seed=3, **KINDS[kind])  # type: ignore[arg-type]
    if diagonal:
        R = params.emission.cov
        params = params._replace(emission=params.emission._replace(cov=R * torch.eye(R.shape[-1])))
    batch, p = KINDS[kind].get("batch", ()), params.emission.offset.shape[-1]
    y = torch.randn((*batch, time, p), generator=torch.Generator().manual_seed(4)).double()
    y = oracles.punch_holes(2 * y, 0.3, 5) if gaps else y
    if gaps:
        y[..., 3, :] = torch.nan
    return params, y


@pytest.mark.usefixtures("dense")
@pytest.mark.parametrize("diagonal", [False, True], ids=["full R", "diagonal R"])
@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "gaps"])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_the_joint_gaussian(kind: str, gaps: bool, diagonal: bool) -> None:
    """Oracle: one Gaussian over all states and observations."""
    params, y = make(kind, 12, gaps=gaps, diagonal=diagonal)
    digits = 50 if "diffuse" in kind else None
    model, whole = Given(params), oracles.smooth(params, y, digits=digits)
    close = lambda x, y: torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)  # noqa: E731
    # How a diffuse start is dealt to its first steps is a convention; the total is not.
    steps = (ds.log_likelihood(model, y), oracles.log_likelihood(params, y, digits=digits))
    close(*((x.sum(-1) for x in steps) if "diffuse" in kind else steps))
    found = ds.smooth(model, y)
    close(found.mean, whole.mean)
    close(found.cov, whole.cov)
    close(found.cross_cov, whole.cross_cov)
    if "diffuse" not in kind:
        now, before = oracles.filtered(params, y), oracles.predicted(params, y)
        filtered = ds.filter(model, y)
        close(filtered.mean, now.mean)
        close(filtered.cov, now.cov)
        close(filtered.predicted_mean, before.mean)
        close(filtered.predicted_cov, before.cov)


def gradients(params: LinearParameters, y: Tensor) -> list[Tensor]:
    """Derivatives by all parameters and the data."""
    start, *parts = params
    leaves = [start.mean, start.cov, *parts[0], *parts[1], y]
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    mean, cov, A, b, Q, C, d, R, data = leaves
    given = params._replace(
        initial=start._replace(mean=mean, cov=cov),
        transition=parts[0]._replace(matrix=A, offset=b, cov=Q),
        emission=parts[1]._replace(matrix=C, offset=d, cov=R),
    )
    return list(torch.autograd.grad(ds.log_likelihood(Given(given), data).sum(), leaves))


@pytest.mark.parametrize("diagonal", [False, True], ids=["full R", "diagonal R"])
@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "gaps"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_scalar_loops(
    kind: str, gaps: bool, diagonal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These are checked against finite differences and 100 digits elsewhere."""
    params, y = make(kind, 80, gaps=gaps, diagonal=diagonal)
    scalar(monkeypatch)
    expected = gradients(params, y)
    monkeypatch.undo()
    for name in ("_STATES", "_SIZE", "_SMOOTHER_STATES", "_SMOOTHER_SIZE"):
        monkeypatch.setattr(serves, name, 0)
    for x, other in zip(gradients(params, y), expected, strict=True):
        torch.testing.assert_close(x, other, rtol=1e-7, atol=1e-8 * float(other.abs().max() + 1))


@pytest.mark.usefixtures("dense")
@pytest.mark.parametrize("name", SHORT)
def test_cases_that_break_filters(name: str) -> None:
    """Truth: 100 digits."""
    given = case(name)
    result = score(given, exact(given.params, given.y, 100))
    assert result.right, result


@pytest.mark.parametrize(("state", "obs"), [(14, 3), (14, 30)])
def test_a_steady_state_changes_no_answer(
    state: int, obs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete series, whose gain becomes steady, against loops told that it never does."""
    params = oracles.random_linear_gaussian(state, obs, 400, 6)
    y = torch.randn(400, obs, generator=torch.Generator().manual_seed(1)).double()
    y[250] = torch.nan
    results = []
    for never in (False, True):
        if never:
            monkeypatch.setattr(filtering, "complete_runs", lambda y: np.zeros(y.shape[:2], int))
        found, smoothed = ds.filter(Given(params), y), ds.smooth(Given(params), y)
        parts = (found.log_likelihood, found.mean, found.cov, smoothed.mean, smoothed.cov)
        results.append((*parts, smoothed.cross_cov, *gradients(params, y)))
    for x, other in zip(*results, strict=True):
        torch.testing.assert_close(x, other, rtol=1e-8, atol=1e-9 * float(other.abs().max()))


def test_a_vague_start_leaves_the_adjoint_for_reflections() -> None:
    """Oracle: 60 digits. `P - P M P` would lose every digit of the first steps."""
    params = oracles.random_linear_gaussian(12, 2, 12, 9)
    params = params._replace(initial=params.initial._replace(cov=1e10 * torch.eye(12).double()))
    y = torch.randn(12, 2, generator=torch.Generator().manual_seed(2)).double()
    truth, found = oracles.smooth(params, y, digits=60), ds.smooth(Given(params), y)
    deviation = truth.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((found.mean - truth.mean).abs() / deviation).max() < 1e-5
    scale = deviation[..., :, None] * deviation[..., None, :]
    assert ((found.cov - truth.cov).abs() / scale).max() < 1e-5
