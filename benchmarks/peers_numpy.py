"""Peers on NumPy and PyTorch: statsmodels, filterpy, simdkalman and Pyro."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pyro.distributions as dist
import simdkalman
import torch
from cases import Problem, Task
from filterpy.kalman import KalmanFilter
from statsmodels.tsa.statespace.kalman_smoother import (
    SMOOTHER_STATE,
    SMOOTHER_STATE_AUTOCOV,
    SMOOTHER_STATE_COV,
    KalmanSmoother,
)
from torch import Tensor
from worker import Arrays, Contestant, Job, Unable, serve


def statsmodels(task: Task, problem: Problem) -> Job:
    """One compiled filter per series; only the smoother output that the task needs."""
    if task == "gradient":
        raise Unable("numerical derivatives only")
    filters = [_statsmodels_filter(problem, y) for y in problem.y]
    wanted = SMOOTHER_STATE | SMOOTHER_STATE_COV | SMOOTHER_STATE_AUTOCOV
    if task == "log_likelihood":
        return Job(lambda: [f.loglike() for f in filters], lambda ll: {"log_likelihood": ll})
    if task == "filter":
        return Job(
            lambda: [f.filter() for f in filters],
            partial(_statsmodels_read, kind="filtered_state"),
        )
    return Job(
        lambda: [f.smooth(smoother_output=wanted) for f in filters],
        partial(_statsmodels_read, kind="smoothed_state"),
    )


def _statsmodels_filter(problem: Problem, y: np.ndarray) -> KalmanSmoother:
    p, n = problem.C.shape
    kalman = KalmanSmoother(p, n)
    kalman["transition"], kalman["state_cov"], kalman["selection"] = (
        problem.A,
        problem.Q,
        np.eye(n),
    )
    kalman["design"], kalman["obs_cov"] = problem.C, problem.R
    kalman.initialize_known(problem.m0, problem.P0)
    kalman.bind(np.ascontiguousarray(y))
    return kalman


def _statsmodels_read(results: list[Any], kind: str) -> Arrays:
    return {
        "log_likelihood": np.array([result.llf_obs.sum() for result in results]),
        "mean": np.stack([getattr(result, kind).T for result in results]),
        "cov": np.stack([getattr(result, f"{kind}_cov").transpose(2, 0, 1) for result in results]),
    }


def filterpy(task: Task, problem: Problem) -> Job:
    """Python loops of a mutable object: `update` then `predict`."""
    if task == "gradient":
        raise Unable("no derivatives")
    if np.isnan(problem.y).any() and problem.C.shape[0] > 1:
        raise Unable("no missing components, only whole steps")
    data = [[None if np.isnan(row).any() else row[:, None] for row in y] for y in problem.y]
    if task == "log_likelihood":
        call = lambda: [_filterpy_log_likelihood(problem, rows) for rows in data]  # noqa: E731
        return Job(call, lambda ll: {"log_likelihood": np.array(ll)})
    run = _filterpy_filter if task == "filter" else _filterpy_smoother
    return Job(lambda: [run(problem, rows) for rows in data], _filterpy_read)


def _filterpy_object(problem: Problem) -> KalmanFilter:
    p, n = problem.C.shape
    kalman = KalmanFilter(n, p)
    kalman.F, kalman.Q, kalman.H, kalman.R = problem.A, problem.Q, problem.C, problem.R
    kalman.x, kalman.P = problem.m0[:, None].copy(), problem.P0.copy()
    return kalman


def _filterpy_log_likelihood(problem: Problem, rows: list[np.ndarray | None]) -> float:
    kalman, total = _filterpy_object(problem), 0.0
    for row in rows:
        kalman.update(row)
        # After a missing row the attribute is that of an earlier one.
        total += 0.0 if row is None else kalman.log_likelihood
        kalman.predict()
    return total


def _filterpy_filter(problem: Problem, rows: list[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    mean, cov, _, _ = _filterpy_object(problem).batch_filter(rows, update_first=True)
    return mean, cov


def _filterpy_smoother(problem: Problem, rows: list[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    kalman = _filterpy_object(problem)
    mean, cov, _, _ = kalman.batch_filter(rows, update_first=True)
    mean, cov, _, _ = kalman.rts_smoother(mean, cov)
    return mean, cov


def _filterpy_read(results: list[tuple[np.ndarray, ...]]) -> Arrays:
    return {
        "mean": np.stack([mean[..., 0] for mean, _ in results]),
        "cov": np.stack([cov for _, cov in results]),
    }


def simd(task: Task, problem: Problem) -> Job:
    """NumPy vectorised over series, a Python loop over time."""
    if task == "gradient":
        raise Unable("no derivatives")
    if np.isnan(problem.y).any() and problem.C.shape[0] > 1:
        raise Unable("no missing components, only whole steps")
    kalman = simdkalman.KalmanFilter(problem.A, problem.Q, problem.C, problem.R)
    constant = 0.5 * math.log(2 * math.pi) * (~np.isnan(problem.y)).sum((1, 2))
    call = partial(
        kalman.compute, problem.y, 0, problem.m0, problem.P0, observations=False,
        smoothed=task == "smoother", filtered=task == "filter",
        log_likelihood=task == "log_likelihood",
    )  # fmt: skip
    if task == "log_likelihood":
        # It leaves out the constant of the Gaussian density.
        return Job(call, lambda result: {"log_likelihood": result.log_likelihood - constant})
    name = "smoothed" if task == "smoother" else "filtered"
    return Job(call, lambda result: _simd_read(getattr(result, name).states))


def _simd_read(states: Any) -> Arrays:  # noqa: ANN401
    return {"mean": states.mean, "cov": states.cov}


def pyro(task: Task, problem: Problem) -> Job:
    """`GaussianHMM`: a parallel scan in torch, differentiated by autograd."""
    if np.isnan(problem.y).any():
        raise Unable("no missing data")
    if task in ("filter", "smoother"):
        raise Unable("moments of the last state only" if task == "filter" else "no smoother")
    y, learnt = torch.tensor(problem.y), task == "gradient"
    matrices = [torch.tensor(x, requires_grad=learnt) for x in (problem.A, problem.Q, problem.R)]
    call = partial(_pyro_log_likelihood, problem, y, *matrices)
    if not learnt:
        return Job(call, lambda ll: {"log_likelihood": ll.numpy()})
    return Job(partial(_pyro_gradient, call, matrices), _pyro_read)


def _pyro_log_likelihood(problem: Problem, y: Tensor, A: Tensor, Q: Tensor, R: Tensor) -> Tensor:
    C, m0, P0 = (torch.tensor(x) for x in (problem.C, problem.m0, problem.P0))
    # Pyro's first state emits nothing: start one step before `N(m0, P0)`.
    back = torch.linalg.inv(A)
    start = dist.MultivariateNormal(back @ m0, back @ (P0 - Q) @ back.mT, validate_args=False)
    zero_z, zero_y = m0.new_zeros(len(m0)), m0.new_zeros(len(C))
    law = dist.GaussianHMM(
        start, A.mT, dist.MultivariateNormal(zero_z, Q, validate_args=False), C.mT,
        dist.MultivariateNormal(zero_y, R, validate_args=False), duration=y.shape[1],
    )  # fmt: skip
    return law.log_prob(y)


def _pyro_gradient(call: Any, matrices: list[Tensor]) -> tuple[Tensor, ...]:  # noqa: ANN401
    ll = call()
    return ll.detach(), *torch.autograd.grad(ll.sum(), matrices)


def _pyro_read(found: tuple[Tensor, ...]) -> Arrays:
    names = ("log_likelihood", "A", "Q", "R")
    return {name: x.numpy() for name, x in zip(names, found, strict=True)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        Contestant("statsmodels", ("statsmodels", "numpy"), statsmodels, (64, 10**9)),
        Contestant("filterpy", ("filterpy", "numpy"), filterpy, (1, 2_000)),
        Contestant("simdkalman", ("simdkalman", "numpy"), simd, (256, 10_000)),
        Contestant("Pyro", ("pyro-ppl", "torch"), pyro, (64, 100_000)),
    )
