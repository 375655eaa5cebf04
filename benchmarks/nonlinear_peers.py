"""The peers of `nonlinear.py`; run as a script, a worker in an environment of its own.

python benchmarks/nonlinear_peers.py dynamax|cuthbert|particles FOLDER BATCH LENGTH
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DT, GRAVITY, PARTICLES = 0.05, 9.81, 1_000
Q = np.array([[1e-4, 2e-5], [2e-5, 1e-2]])
R = np.array([[0.1]])
M0, P0 = np.array([1.2, 0.0]), np.array([[0.2, 0.02], [0.02, 0.1]])
Answer = tuple[np.ndarray, ...]
Row = tuple[str, float, Answer]


def readings(batch: int, length: int) -> np.ndarray:
    """Draw noisy sines of pendulums that follow the model, `(batch, length, 1)`."""
    rng = np.random.default_rng(0)
    LQ, LP = np.linalg.cholesky(Q), np.linalg.cholesky(P0)
    z, sines = M0[:, None] + LP @ rng.normal(size=(2, batch)), []
    for t in range(length):
        z = swing(z) + LQ @ rng.normal(size=(2, batch)) if t else z
        sines.append(np.sin(z[0]))
    noise = R[0, 0] ** 0.5 * rng.normal(size=(batch, length))
    return (np.stack(sines, -1) + noise)[..., None]


def swing(z: np.ndarray, dt: float = DT) -> np.ndarray:
    return np.array([z[0] + dt * z[1], z[1] - dt * GRAVITY * np.sin(z[0])])


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


def filterpy(y: np.ndarray) -> Iterator[Row]:
    """Run filterpy on each series in turn; points are drawn anew before updates, as by others."""
    runs = {
        "EKF": _filterpy_ekf,
        "UKF": lambda one: _filterpy_ukf(one, 1.0, 0.0, 0.0),
        "UKF 0.8, 2, 1": lambda one: _filterpy_ukf(one, 0.8, 2.0, 1.0),
        "CKF": _filterpy_ckf,
    }
    for name, run in runs.items():
        seconds = median_seconds(lambda r=run: [r(one) for one in y], 3) / len(y)
        yield name, seconds, run(y[0])


def _filterpy_ekf(y: np.ndarray) -> Answer:
    from filterpy.kalman import ExtendedKalmanFilter

    kf = ExtendedKalmanFilter(2, 1)
    kf.x, kf.P, kf.Q, kf.R = M0[:, None].copy(), P0.copy(), Q, R

    def step(reading: np.ndarray, t: int) -> None:
        if t:
            slope = -DT * GRAVITY * np.cos(kf.x[0, 0])
            kf.F = np.array([[1, DT], [slope, 1]])
            kf.x = swing(kf.x[:, 0])[:, None]
            kf.P = kf.F @ kf.P @ kf.F.T + kf.Q
        kf.update(
            reading[:, None],
            lambda z: np.array([[np.cos(z[0, 0]), 0.0]]),
            lambda z: np.sin(z[:1]),
        )

    return _collect(kf, step, y)


def _filterpy_ukf(y: np.ndarray, alpha: float, beta: float, kappa: float) -> Answer:
    from filterpy.kalman import MerweScaledSigmaPoints, UnscentedKalmanFilter

    points = MerweScaledSigmaPoints(2, alpha, beta, kappa)
    kf = UnscentedKalmanFilter(2, 1, DT, lambda z: np.sin(z[:1]), swing, points)
    kf.x, kf.P, kf.Q, kf.R = M0.copy(), P0.copy(), Q, R

    def step(reading: np.ndarray, t: int) -> None:
        if t:
            kf.predict()
        kf.sigmas_f = points.sigma_points(kf.x, kf.P)
        kf.update(reading)

    return _collect(kf, step, y)


def _filterpy_ckf(y: np.ndarray) -> Answer:
    from filterpy.kalman import CubatureKalmanFilter
    from filterpy.kalman.CubatureKalmanFilter import spherical_radial_sigmas

    kf = CubatureKalmanFilter(2, 1, DT, lambda z: np.sin(z[:1]), lambda z, dt: swing(z.ravel()))
    kf.x, kf.P, kf.Q, kf.R = M0[:, None].copy(), P0.copy(), Q, R

    def step(reading: np.ndarray, t: int) -> None:
        if t:
            kf.predict()
        kf.sigmas_f = spherical_radial_sigmas(kf.x, kf.P)
        kf.update(reading[:, None])

    return _collect(kf, step, y)


def _collect(kf: Any, step: Callable[[np.ndarray, int], None], y: np.ndarray) -> Answer:  # noqa: ANN401
    means, covs = [], []
    for t, reading in enumerate(y):
        step(reading, t)
        means.append(np.ravel(kf.x).copy())
        covs.append(kf.P.copy())
    return np.array(means), np.array(covs)


def dynamax(y: np.ndarray) -> Iterator[Row]:
    """Run dynamax, `jit` and `vmap`; then without the 1e-9 it adds to innovation variances."""
    from functools import partial

    import jax
    import jax.numpy as jnp
    from dynamax.nonlinear_gaussian_ssm import (
        ParamsNLGSSM,
        UKFHyperParams,
        extended_kalman_filter,
        inference_ekf,
        inference_ukf,
        unscented_kalman_filter,
    )
    from dynamax.utils.utils import psd_solve

    def f(z: jax.Array) -> jax.Array:
        return jnp.array([z[0] + DT * z[1], z[1] - DT * GRAVITY * jnp.sin(z[0])])

    params = ParamsNLGSSM(
        *(jnp.array(x) for x in (M0, P0)), f, jnp.array(Q), lambda z: jnp.sin(z[:1]), jnp.array(R)
    )
    runs = {
        "EKF": lambda one: extended_kalman_filter(params, one),
        "UKF": lambda one: unscented_kalman_filter(params, one, UKFHyperParams(1.0, 0.0, 0.0)),
        "UKF 0.8, 2, 1": lambda one: unscented_kalman_filter(
            params, one, UKFHyperParams(0.8, 2.0, 1.0)
        ),
    }
    for note in ("", ", no 1e-9"):
        for name, run in runs.items():
            yield (
                name + note,
                *_timed(
                    lambda one, r=run: (r(one).filtered_means, r(one).filtered_covariances), y
                ),
            )
        exact = partial(psd_solve, diagonal_boost=0.0)
        inference_ekf.psd_solve = inference_ukf.psd_solve = exact


def cuthbert(y: np.ndarray) -> Iterator[Row]:
    """Run cuthbert's linearised filter and its bootstrap particle filter, `jit` and `vmap`."""
    import cuthbert
    import jax
    import jax.numpy as jnp
    from cuthbert.gaussian import moments
    from cuthbert.smc import particle_filter
    from cuthbertlib.resampling import systematic
    from cuthbertlib.resampling.adaptive import ess_decorator

    def f(z: jax.Array) -> jax.Array:
        return jnp.array([z[0] + DT * z[1], z[1] - DT * GRAVITY * jnp.sin(z[0])])

    factors = [jnp.linalg.cholesky(x) for x in (Q, R, P0)]
    LQ, LR, LP = factors

    def move(state: Any, at: Any) -> Any:  # noqa: ANN401
        first = at[0] == 0  # its start emits nothing, so the first step stays where it is
        return lambda z: (jnp.where(first, z, f(z)), jnp.where(first, 0 * LQ, LQ)), state.mean

    def see(state: Any, at: Any) -> Any:  # noqa: ANN401
        return lambda z: (jnp.sin(z[:1]), LR), state.mean, at[1]

    law = moments.build_filter(M0, LP, move, see)

    def extended(one: jax.Array) -> tuple[jax.Array, ...]:
        inputs = jnp.arange(len(one)), one
        states = cuthbert.filter(law, inputs, law.init_prepare())
        return states.mean[1:], states.chol_cov[1:] @ states.chol_cov[1:].mT

    yield "EKF", *_timed(extended, y)

    def step(key: Any, z: jax.Array, at: Any) -> jax.Array:  # noqa: ANN401
        moved = f(z) + LQ @ jax.random.normal(key, (2,))
        return jnp.where(at[0] == 0, z, moved)

    def potential(before: jax.Array, z: jax.Array, at: Any) -> jax.Array:  # noqa: ANN401
        return jax.scipy.stats.norm.logpdf(at[1][0], jnp.sin(z[0]), LR[0, 0])

    start = lambda key: M0 + LP @ jax.random.normal(key, (2,))  # noqa: E731
    resample = ess_decorator(systematic.resampling, 0.5)
    smc = particle_filter.build_filter(start, step, potential, PARTICLES, resample)

    def bootstrap(one: jax.Array) -> tuple[jax.Array, ...]:
        inputs, key = (jnp.arange(len(one)), one), jax.random.key(0)
        states = cuthbert.filter(smc, inputs, smc.init_prepare(key=key), key=key)
        return (states.log_normalizing_constant[-1],)

    yield f"particles, {PARTICLES}", *_timed(bootstrap, y[:20])


def particles(y: np.ndarray) -> Iterator[Row]:
    """Run the package `particles`: a bootstrap filter, series by series."""
    import particles
    from particles import distributions
    from particles import state_space_models as ssm

    class Pendulum(ssm.StateSpaceModel):
        def PX0(self) -> object:  # noqa: N802
            return distributions.MvNormal(loc=M0, cov=P0)

        def PX(self, t: int, xp: np.ndarray) -> object:  # noqa: N802
            return distributions.MvNormal(loc=swing(xp.T).T, cov=Q)

        def PY(self, t: int, xp: np.ndarray, x: np.ndarray) -> object:  # noqa: N802
            return distributions.Normal(loc=np.sin(x[:, 0]), scale=R[0, 0] ** 0.5)

    def run(one: np.ndarray) -> float:
        law = ssm.Bootstrap(ssm=Pendulum(), data=one[:, 0])
        smc = particles.SMC(fk=law, N=PARTICLES, resampling="systematic", ESSrmin=0.5)
        smc.run()
        return smc.logLt

    seconds = median_seconds(lambda: [run(one) for one in y[:3]], 3) / len(y[:3])
    yield f"particles, {PARTICLES}", seconds, (np.array(run(y[0])),)


def _timed(run: Callable[[Any], Any], y: np.ndarray) -> tuple[float, Answer]:
    import jax
    import jax.numpy as jnp

    compiled, data = jax.jit(jax.vmap(run)), jnp.array(y)
    seconds = median_seconds(lambda: jax.block_until_ready(compiled(data)), 5)
    return seconds / len(y), tuple(np.asarray(x[0]) for x in compiled(data[:1]))


def work(name: str, folder: Path, batch: int, length: int) -> None:
    """Write one file a row into `folder`: seconds first, then the answer for the first series."""
    if name != "particles":
        import jax

        jax.config.update("jax_enable_x64", True)
    workers = {"dynamax": dynamax, "cuthbert": cuthbert, "particles": particles}
    for i, (label, seconds, answer) in enumerate(workers[name](readings(batch, length))):
        np.savez(folder / f"{i}.npz", np.array(label), np.array(seconds), *answer)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
