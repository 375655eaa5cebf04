"""A worker of `hidden_markov.py`: prepares jobs and times them on request, JSON each way.

It runs in the environment of the package it times, and knows all of them: ours, dynamax, hmmlearn
and filterpy. What a job finds comes back beside its time, so that answers can be compared.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MIN_SECONDS = 0.05


class Case(NamedTuple):
    """Data of a hidden Markov model with known parameters."""

    y: np.ndarray
    A: np.ndarray
    means: np.ndarray
    covs: np.ndarray


Job = tuple[Callable[[], Any], Callable[[Any], np.ndarray]]


def case(states: int, steps: int, size: int) -> Case:
    """Draw from a chain that stays with probability 0.9, full covariances."""
    rng = np.random.default_rng(0)
    A = 0.1 * rng.dirichlet(np.ones(states), states) + 0.9 * np.eye(states)
    means = 3 * rng.normal(size=(states, size))
    roots = 0.3 * rng.normal(size=(states, size, size)) + np.eye(size)
    covs = roots @ roots.transpose(0, 2, 1)
    z, chain = 0, np.empty(steps, int)
    for t in range(steps):
        chain[t] = z
        z = rng.choice(states, p=A[z])
    white = rng.normal(size=(steps, size))
    noise = np.einsum("tij,tj->ti", np.linalg.cholesky(covs)[chain], white)
    return Case(means[chain] + noise, A, means, covs)


def ours(task: str, c: Case) -> Job:
    import torch

    import deepssm as ds

    torch.set_num_threads(1)
    model, y = _our_model(c), torch.from_numpy(c.y)
    method, series = ds.inference.ForwardBackward(), ds.Series(y)

    def likelihood() -> Any:  # noqa: ANN401
        with torch.no_grad():
            return ds.log_likelihood(model, y)

    def gradient() -> Any:  # noqa: ANN401
        model.zero_grad()
        ds.log_likelihood(model, y).sum().backward()
        return model.family.coefficients.grad

    def step() -> Any:  # noqa: ANN401
        fresh = _our_model(c)
        found = method.expect(fresh, series)
        fresh.maximize(series, found.first, found.pairs, found.smoothed)
        return fresh

    jobs: dict[str, Job] = {
        "log-likelihood": (likelihood, lambda x: x.sum().numpy()),
        "smoother": (lambda: ds.smooth(model, y).mean, lambda x: x[::97].numpy()),
        "Viterbi": (lambda: method.viterbi(model, series)[0], lambda x: x.numpy()),
        "EM step": (
            step,
            lambda m: np.concatenate(
                [
                    m.family.coefficients[..., 0].detach().numpy().ravel(),
                    m.log_transition()[0].exp().detach().numpy().ravel(),
                ]
            ),
        ),
        "gradient": (gradient, lambda g: g[..., 0].numpy()),
    }
    return jobs[task]


def _our_model(c: Case) -> Any:  # noqa: ANN401
    import torch

    import deepssm as ds

    family = ds.models.GaussianStates(len(c.A), c.y.shape[1], floor=0.0)
    model = ds.models.HiddenMarkov(family)
    factors = torch.from_numpy(np.linalg.cholesky(c.covs))
    with torch.no_grad():
        family.coefficients.copy_(torch.from_numpy(c.means)[..., None])
        diagonal = factors.diagonal(dim1=-2, dim2=-1)
        family.raw_scale.copy_(factors.tril(-1) + torch.diag_embed(diagonal.log()))
        model.transition_logits.copy_(torch.from_numpy(c.A).log())
    return model


def dynamax(task: str, c: Case) -> Job:
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import GaussianHMM

    jax.config.update("jax_enable_x64", True)
    # Its priors would move the M step.
    model = GaussianHMM(
        len(c.A),
        c.y.shape[1],
        initial_probs_concentration=1.0,
        transition_matrix_concentration=1.0,
        emission_prior_concentration=1e-12,
        emission_prior_scale=1e-12,
    )
    params, props = model.initialize(
        jax.random.PRNGKey(0),
        initial_probs=jnp.full(len(c.A), 1 / len(c.A)),
        transition_matrix=jnp.array(c.A),
        emission_means=jnp.array(c.means),
        emission_covariances=jnp.array(c.covs),
    )
    y, state = jnp.array(c.y), model.initialize_m_step_state(params, props)

    def step(p: Any, y: Any) -> Any:  # noqa: ANN401
        stats, _ = jax.vmap(lambda one: model.e_step(p, one))(y[None])
        return model.m_step(p, props, stats, state)[0]

    runs: dict[str, tuple[Callable[..., Any], Callable[[Any], np.ndarray]]] = {
        "log-likelihood": (model.marginal_log_prob, np.asarray),
        "smoother": (
            lambda p, y: model.smoother(p, y).smoothed_probs,
            lambda x: np.asarray(x)[::97],
        ),
        "Viterbi": (model.most_likely_states, np.asarray),
        "EM step": (
            step,
            lambda p: np.concatenate(
                [
                    np.asarray(p.emissions.means).ravel(),
                    np.asarray(p.transitions.transition_matrix).ravel(),
                ]
            ),
        ),
        "gradient": (
            jax.grad(lambda p, y: model.marginal_log_prob(p, y)),
            lambda p: np.asarray(p.emissions.means),
        ),
    }
    run, read = runs[task]
    compiled = jax.jit(run)
    return lambda: jax.block_until_ready(compiled(params, y)), read


def hmmlearn(task: str, c: Case) -> Job:
    """Its scaled recursion, which is its fastest; one iteration of `fit` is an EM step."""
    from hmmlearn.hmm import GaussianHMM

    logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)

    def fresh() -> Any:  # noqa: ANN401
        model = GaussianHMM(
            len(c.A),
            covariance_type="full",
            n_iter=1,
            init_params="",
            params="stmc",
            covars_prior=0.0,
            implementation="scaling",
        )
        model.startprob_, model.transmat_ = np.full(len(c.A), 1 / len(c.A)), c.A.copy()
        model.means_, model.covars_ = c.means.copy(), c.covs.copy()
        return model

    model = fresh()
    jobs: dict[str, Job] = {
        "log-likelihood": (lambda: model.score(c.y), np.asarray),
        "smoother": (lambda: model.predict_proba(c.y), lambda x: x[::97]),
        "Viterbi": (lambda: model.decode(c.y)[1], np.asarray),
        "EM step": (
            lambda: fresh().fit(c.y),
            lambda m: np.concatenate([m.means_.ravel(), m.transmat_.ravel()]),
        ),
    }
    return jobs[task]


def _imm_numbers(steps: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Two constant-velocity modes, quiet and manoeuvring, and readings of both axes."""
    rng = np.random.default_rng(1)
    F = np.kron(np.eye(2), np.array([[1.0, 1.0], [0.0, 1.0]]))
    unit = np.kron(np.eye(2), np.array([[0.25, 0.5], [0.5, 1.0]]) + 1e-6 * np.eye(2))
    z, y = np.zeros(4), np.empty((steps, 2))
    for t in range(steps):
        q = 1.0 if t // 50 % 2 else 0.01
        z = F @ z + np.linalg.cholesky(q * unit) @ rng.normal(size=4)
        y[t] = z[::2] + 2 * rng.normal(size=2)
    return F, [0.01 * unit, unit], y


M = np.array([[0.95, 0.05], [0.1, 0.9]])


def ours_imm(order: int, steps: int) -> Job:
    import torch

    import deepssm as ds

    torch.set_num_threads(1)
    F, noises, y = _imm_numbers(steps)
    C = np.eye(4)[::2]
    modes = [
        ds.models.LinearGaussian(
            *(torch.from_numpy(x) for x in (F, Q, C, 4 * np.eye(2))),
            m0=torch.zeros(4).double(),
            P0=10 * torch.eye(4).double(),
        )
        for Q in noises
    ]
    start = torch.tensor([0.5, 0.5], dtype=torch.float64)
    model = ds.models.SwitchingLinearGaussian(modes, transition=torch.from_numpy(M), initial=start)
    method, data = ds.inference.Switching(order), torch.from_numpy(y)  # type: ignore[arg-type]
    return lambda: ds.filter(model, data, method=method), lambda f: f.mean[1:].detach().numpy()


def filterpy_imm(order: int, steps: int) -> Job:
    from filterpy.kalman import IMMEstimator, KalmanFilter

    F, noises, y = _imm_numbers(steps)

    def run() -> tuple[list[np.ndarray], list[np.ndarray]]:
        filters = []
        for Q in noises:
            kf = KalmanFilter(4, 2)
            kf.x, kf.P, kf.F, kf.Q = np.zeros(4), 10 * np.eye(4), F, Q
            kf.H, kf.R = np.eye(4)[::2], 4 * np.eye(2)
            filters.append(kf)
        imm = IMMEstimator(filters, np.array([0.5, 0.5]) @ np.linalg.inv(M), M)
        means, modes = [], []
        for t, reading in enumerate(y):
            if t:
                imm.predict()
            imm.update(reading)
            means.append(imm.x.copy())
            modes.append(imm.mu.copy())
        return modes, means

    return run, lambda found: np.concatenate([np.array(x)[1:] for x in found], -1)


class Worker:
    """Holds the job that is being timed."""

    def __init__(self) -> None:
        self.call: Callable[[], Any] = lambda: None
        self.repeats = 1

    def prepare(self, name: str, task: str, sizes: list[int], target: str) -> dict[str, Any]:
        """Get a job ready, warm it up and write what it found."""
        if task in ("IMM", "GPB2"):
            build = ours_imm if name == "deepssm" else filterpy_imm
            self.call, read = build(1 if task == "IMM" else 2, sizes[0])
        else:
            build = {"deepssm": ours, "dynamax": dynamax, "hmmlearn": hmmlearn}[name]
            self.call, read = build(task, case(*sizes))
        np.save(target, np.asarray(read(self.call()), float))
        self.call()
        start = time.process_time()
        self.call()
        self.repeats = int(np.ceil(MIN_SECONDS / max(time.process_time() - start, 1e-6)))
        return {}

    def measure(self) -> dict[str, float]:
        """Run the job some times; seconds of one call."""
        self.call()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(self.repeats):
            self.call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"wall": wall / self.repeats, "cpu": cpu / self.repeats}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("deepssm", "torch", "numba", "dynamax", "jax", "hmmlearn", "filterpy", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def serve() -> None:
    """Answer requests on standard input until it ends; what packages print goes to stderr."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    print(json.dumps(_versions()), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001
            answer = {"unable": f"{type(error).__name__}: {str(error)[:160]}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    serve()
