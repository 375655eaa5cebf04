"""Nonlinear filters against filterpy, dynamax and cuthbert: a pendulum seen through its sine.

    python benchmarks/nonlinear.py [--quick] [--jax-python /path/to/venv/bin/python]

One thread, CPU time, so that a busy machine does not change the ratios. filterpy runs in this
process on a few series and is given per series; dynamax (jit and vmap, float64) runs in its own
environment if `--jax-python` names one. Agreement is the largest difference of filtered means and
covariances of the first series.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

DT, GRAVITY = 0.05, 9.81
Q = np.array([[1e-4, 2e-5], [2e-5, 1e-2]])
R = np.array([[0.1]])
M0, P0 = np.array([1.2, 0.0]), np.array([[0.2, 0.02], [0.02, 0.1]])
Answer = tuple[np.ndarray, np.ndarray]


def readings(batch: int, length: int) -> np.ndarray:
    """Return noisy sines of swinging pendulums, `(batch, length, 1)`."""
    rng = np.random.default_rng(0)
    angle = 1.2 * np.cos(3.1 * DT * np.arange(length))
    return (np.sin(angle) + 0.3 * rng.normal(size=(batch, length)))[..., None]


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


def ours(y: np.ndarray, repeats: int) -> tuple[dict[str, float], dict[str, Answer]]:
    """Return seconds per series and the answer for the first series."""
    import torch
    from torch import Tensor

    import deepssm as ds
    from deepssm.base import Series

    def f(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        angle, speed = z.unbind(-1)
        return torch.stack((angle + DT * speed, speed - DT * GRAVITY * angle.sin()), -1)

    torch.set_num_threads(1)
    numbers = (torch.from_numpy(x) for x in (Q, R, M0, P0))
    names = dict(zip(("Q", "R", "m0", "P0"), numbers, strict=True))
    model = ds.models.NonlinearGaussian(f, lambda z, u: z[..., :1].sin(), **names)
    seconds, answers, data = {}, {}, Series(torch.from_numpy(y))
    methods = {
        "EKF": ds.inference.Extended(),
        "UKF": ds.inference.Unscented(),
        "CKF": ds.inference.Cubature(),
        "particle filter, 1000": ds.inference.Particle(1_000),
    }
    for name, method in methods.items():
        few = data if "particle" not in name else Series(data.y[:20])
        total = median_seconds(lambda m=method, s=few: m.filter(model, s), repeats)
        seconds[name] = total / len(few.y)
        found = method.filter(model, Series(data.y[:1]))
        answers[name] = found.mean[0].numpy(), found.cov[0].numpy()
    return seconds, answers


def filterpy(y: np.ndarray) -> tuple[dict[str, float], dict[str, Answer]]:
    """Run filterpy on each series in turn; points are drawn anew before updates, as by others."""
    seconds, answers = {}, {}
    for name, run in (("EKF", _filterpy_ekf), ("UKF", _filterpy_ukf), ("CKF", _filterpy_ckf)):
        seconds[name] = median_seconds(lambda r=run: [r(one) for one in y], 3) / len(y)
        answers[name] = run(y[0])
    return seconds, answers


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


def _filterpy_ukf(y: np.ndarray) -> Answer:
    from filterpy.kalman import MerweScaledSigmaPoints, UnscentedKalmanFilter

    points = MerweScaledSigmaPoints(2, 1.0, 0.0, 0.0)
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


def _collect(kf: object, step: Callable[[np.ndarray, int], None], y: np.ndarray) -> Answer:
    means, covs = [], []
    for t, reading in enumerate(y):
        step(reading, t)
        means.append(np.ravel(kf.x).copy())  # type: ignore[attr-defined]
        covs.append(kf.P.copy())  # type: ignore[attr-defined]
    return np.array(means), np.array(covs)


def dynamax_worker(y: np.ndarray, out: Path) -> None:
    """Run in dynamax's environment; write seconds per series and the first answers."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    from dynamax.nonlinear_gaussian_ssm import (
        ParamsNLGSSM,
        UKFHyperParams,
        extended_kalman_filter,
        unscented_kalman_filter,
    )

    def f(z: jax.Array) -> jax.Array:
        return jnp.array([z[0] + DT * z[1], z[1] - DT * GRAVITY * jnp.sin(z[0])])

    params = ParamsNLGSSM(
        *(jnp.array(x) for x in (M0, P0)), f, jnp.array(Q), lambda z: jnp.sin(z[:1]), jnp.array(R)
    )
    hyper = UKFHyperParams(alpha=1.0, beta=0.0, kappa=0.0)
    runs = {
        "EKF": lambda one: extended_kalman_filter(params, one),
        "UKF": lambda one: unscented_kalman_filter(params, one, hyper),
    }
    found: dict[str, object] = {}
    for name, run in runs.items():
        compiled, data = jax.jit(jax.vmap(run)), jnp.array(y)
        seconds = median_seconds(lambda c=compiled, d=data: jax.block_until_ready(c(d)), 5)
        first = jax.tree.map(lambda x: x[0], compiled(data[:1]))
        found[name] = {
            "seconds": seconds / len(y),
            "mean": np.asarray(first.filtered_means).tolist(),
            "cov": np.asarray(first.filtered_covariances).tolist(),
        }
    out.write_text(json.dumps(found))


def dynamax(python: str, batch: int, length: int) -> tuple[dict[str, float], dict[str, Answer]]:
    one_thread = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XLA_FLAGS": one_thread}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dynamax.json"
        command = [python, __file__, "--worker", str(out), str(batch), str(length)]
        subprocess.run(command, check=True, env=environment)
        found = json.loads(out.read_text())
    seconds = {name: entry["seconds"] for name, entry in found.items()}
    answers = {
        name: (np.array(entry["mean"]), np.array(entry["cov"])) for name, entry in found.items()
    }
    return seconds, answers


def gap(one: Answer, other: Answer) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def main(quick: bool = False, jax_python: str | None = None) -> None:
    batch, length = (50, 40) if quick else (1_000, 200)
    y = readings(batch, length)
    seconds, answers = ours(y, 2 if quick else 5)
    peers = {"filterpy": filterpy(y[:3])}
    if jax_python:
        peers["dynamax"] = dynamax(jax_python, batch, length)
    print(f"pendulum, {batch} series, {length} steps, one thread; CPU ms per series")
    print(f"{'filter':24}{'deepssm':>10}{'peer':>12}{'ms':>10}{'ratio':>9}{'largest gap':>14}")
    for name, own in seconds.items():
        rows = [(p, s[name], a[name]) for p, (s, a) in peers.items() if name in s]
        if not rows:
            print(f"{name:24}{1e3 * own:10.3f}")
        for peer, theirs, answer in rows:
            difference = gap(answers[name], answer)
            print(
                f"{name:24}{1e3 * own:10.3f}{peer:>12}{1e3 * theirs:10.3f}"
                f"{theirs / own:9.1f}{difference:14.1e}"
            )


if __name__ == "__main__":
    if "--worker" in sys.argv:
        place = sys.argv.index("--worker")
        size, steps = int(sys.argv[place + 2]), int(sys.argv[place + 3])
        dynamax_worker(readings(size, steps), Path(sys.argv[place + 1]))
    else:
        chosen = (
            sys.argv[sys.argv.index("--jax-python") + 1] if "--jax-python" in sys.argv else None
        )
        main("--quick" in sys.argv, chosen)
