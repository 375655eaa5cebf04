"""Peers on JAX: dynamax and cuthbert, compiled by `jit` and mapped over series by `vmap`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cuthbert
import jax
import jax.numpy as jnp
import numpy as np
from cases import Problem, Task
from cuthbert.gaussian import kalman
from cuthbertlib.kalman import filtering
from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_filter, lgssm_smoother
from worker import Arrays, Contestant, Job, Unable, serve

Matrices = tuple[jax.Array, jax.Array, jax.Array]


def dynamax(task: Task, problem: Problem) -> Job:
    """Covariance form, sequential scan."""
    if np.isnan(problem.y).any():
        raise Unable("no missing data: NaN in, NaN out")
    total = partial(_dynamax_log_likelihood, problem)
    if task in ("log_likelihood", "gradient"):
        return _likelihood_job(task, problem, total)

    def run(matrices: Matrices, y: jax.Array) -> Any:  # noqa: ANN401
        params = _dynamax_params(problem, matrices)
        return lgssm_filter(params, y) if task == "filter" else lgssm_smoother(params, y)

    kind = "filtered" if task == "filter" else "smoothed"
    return _moments_job(problem, run, partial(_dynamax_read, kind=kind))


def _dynamax_params(problem: Problem, matrices: Matrices) -> Any:  # noqa: ANN401
    p, n = problem.C.shape
    A, Q, R = matrices
    start = {"initial_mean": problem.m0, "initial_covariance": problem.P0}
    params, _ = LinearGaussianSSM(n, p).initialize(
        jax.random.PRNGKey(0), **{name: jnp.asarray(x) for name, x in start.items()},
        dynamics_weights=A, dynamics_covariance=Q, emission_weights=jnp.asarray(problem.C),
        emission_covariance=R,
    )  # fmt: skip
    return params


def _dynamax_log_likelihood(problem: Problem, matrices: Matrices, y: jax.Array) -> jax.Array:
    return jnp.asarray(lgssm_filter(_dynamax_params(problem, matrices), y).marginal_loglik)


def _dynamax_read(post: Any, kind: str) -> Arrays:  # noqa: ANN401
    mean, cov = getattr(post, f"{kind}_means"), getattr(post, f"{kind}_covariances")
    return _moments((post.marginal_loglik, mean, cov))


def square_root(task: Task, problem: Problem) -> Job:
    """cuthbert: square-root form, sequential scan; NaN is missing."""
    if task in ("log_likelihood", "gradient"):
        return _likelihood_job(task, problem, partial(_cuthbert_log_likelihood, problem))

    def run(matrices: Matrices, y: jax.Array) -> tuple[jax.Array, ...]:
        states, dynamics = _cuthbert_filter(problem, matrices, y)
        ll = states.log_normalizing_constant[-1]
        if task == "smoother":
            states = cuthbert.smoother(kalman.build_smoother(dynamics), states)
        return ll, states.mean, states.chol_cov @ states.chol_cov.mT

    return _moments_job(problem, run, _moments)


def _cuthbert_filter(problem: Problem, matrices: Matrices, y: jax.Array) -> tuple[Any, Callable]:
    A, LQ, LR = matrices[0], *(jnp.linalg.cholesky(x) for x in matrices[1:])
    zero_z, zero_y, C = jnp.zeros(len(A)), jnp.zeros(len(LR)), jnp.asarray(problem.C)
    dynamics = lambda model_inputs: (A, zero_z, LQ)  # noqa: E731
    # Its first state emits nothing, so the first observation is absorbed beforehand.
    (m, L), ll = filtering.update(problem.m0, jnp.linalg.cholesky(problem.P0), C, zero_y, LR, y[0])
    law = kalman.build_filter(
        m, L, dynamics, lambda model_inputs: (C, zero_y, LR, y[model_inputs])
    )
    start = law.init_prepare()
    start = start._replace(elem=start.elem._replace(ell=ll))
    return cuthbert.filter(law, jnp.arange(1, len(y)), start), dynamics


def _cuthbert_log_likelihood(problem: Problem, matrices: Matrices, y: jax.Array) -> jax.Array:
    return _cuthbert_filter(problem, matrices, y)[0].log_normalizing_constant[-1]


def _likelihood_job(
    task: Task, problem: Problem, one: Callable[[Matrices, jax.Array], jax.Array]
) -> Job:
    matrices, y = _arrays(problem)
    many = jax.vmap(one, (None, 0))
    if task == "log_likelihood":
        run = jax.jit(many)
        return Job(lambda: jax.block_until_ready(run(matrices, y)), _likelihood)

    def total(matrices: Matrices, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        ll = many(matrices, y)
        return ll.sum(), ll

    slope = jax.jit(jax.value_and_grad(total, has_aux=True))
    return Job(lambda: jax.block_until_ready(slope(matrices, y)), _gradients)


def _moments_job(
    problem: Problem, one: Callable[[Matrices, jax.Array], Any], read: Callable[[Any], Arrays]
) -> Job:
    matrices, y = _arrays(problem)
    run = jax.jit(jax.vmap(one, (None, 0)))
    return Job(lambda: jax.block_until_ready(run(matrices, y)), read)


def _arrays(problem: Problem) -> tuple[Matrices, jax.Array]:
    A, Q, R, y = (jnp.asarray(x) for x in (problem.A, problem.Q, problem.R, problem.y))
    return (A, Q, R), y


def _likelihood(ll: jax.Array) -> Arrays:
    return {"log_likelihood": np.asarray(ll)}


def _gradients(found: tuple[tuple[jax.Array, jax.Array], Matrices]) -> Arrays:
    (_, ll), slopes = found
    named = zip(("A", "Q", "R"), slopes, strict=True)
    return _likelihood(ll) | {name: np.asarray(x) for name, x in named}


def _moments(found: tuple[jax.Array, ...]) -> Arrays:
    ll, mean, cov = found
    return _likelihood(ll) | {"mean": np.asarray(mean), "cov": np.asarray(cov)}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    serve(
        Contestant("dynamax", ("dynamax", "jax", "jaxlib"), dynamax, (256, 100_000)),
        Contestant("cuthbert", ("cuthbert", "jax", "jaxlib"), square_root, (16, 20_000)),
    )
