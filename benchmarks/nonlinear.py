"""Nonlinear filters against filterpy, dynamax, cuthbert and particles: a pendulum's sine.

    python benchmarks/nonlinear.py [--quick] [--jax PYTHON] [--particles PYTHON]

One thread, CPU time, so that a busy machine does not change the ratios. filterpy runs in this
process on a few series and is given per series; dynamax and cuthbert (jit and vmap, float64) and
particles run in the environments of the interpreters named. Agreement is the largest difference
of filtered means and covariances of the first series, for particle filters the difference of two
random log-likelihoods.

dynamax adds 1e-9 to every innovation variance, which limits agreement to about that over the
gradient of the posterior in it; the rows `no 1e-9` run it with that switched off.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from nonlinear_peers import (
    DT,
    GRAVITY,
    M0,
    P0,
    PARTICLES,
    Answer,
    Q,
    R,
    Row,
    filterpy,
    median_seconds,
    readings,
)

HERE = Path(__file__).parent
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def ours(y: np.ndarray, repeats: int) -> dict[str, tuple[float, Answer]]:
    """Return seconds per series and the answer for the first series."""
    import torch
    from torch import Tensor

    import deepssm as ds
    from deepssm.core.model import Series

    def f(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        angle, speed = z.unbind(-1)
        return torch.stack((angle + DT * speed, speed - DT * GRAVITY * angle.sin()), -1)

    torch.set_num_threads(1)
    numbers = (torch.from_numpy(x) for x in (Q, R, M0, P0))
    names = dict(zip(("Q", "R", "m0", "P0"), numbers, strict=True))
    model = ds.models.NonlinearGaussian(f, lambda z, u: z[..., :1].sin(), **names)
    data, found = Series(torch.from_numpy(y)), {}
    methods = {
        "EKF": ds.inference.Extended(),
        "UKF": ds.inference.Unscented(),
        "UKF 0.8, 2, 1": ds.inference.Unscented(0.8, 2.0, 1.0),
        "CKF": ds.inference.Cubature(),
        f"particles, {PARTICLES}": ds.inference.Particle(PARTICLES),
    }
    for name, method in methods.items():
        few = data if "particles" not in name else Series(data.y[:20])
        total = median_seconds(lambda m=method, s=few: m.filter(model, s), repeats)
        first = method.filter(model, Series(data.y[:1]))
        answer = first.mean[0].numpy(), first.cov[0].numpy()
        if "particles" in name:
            answer = (first.log_likelihood.sum().numpy(),)
        found[name] = total / len(few.y), answer
    return found


def elsewhere(name: str, python: str, batch: int, length: int) -> list[Row]:
    """Run a peer in its own environment."""
    script, sizes = str(HERE / "nonlinear_peers.py"), (str(batch), str(length))
    with tempfile.TemporaryDirectory() as folder:
        command = [python, script, name, folder, *sizes]
        subprocess.run(command, check=True, env=os.environ | ONE_THREAD)
        rows = []
        for i in range(len(list(Path(folder).iterdir()))):
            with np.load(Path(folder) / f"{i}.npz") as saved:
                label, seconds, *answer = saved.values()
                rows.append((str(label), float(seconds), tuple(answer)))
    return rows


def gap(one: Answer, other: Answer) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def option(name: str) -> str | None:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


def main(quick: bool = False, jax: str | None = None, particles: str | None = None) -> None:
    batch, length = (50, 40) if quick else (1_000, 200)
    y = readings(batch, length)
    peers = {"filterpy": list(filterpy(y[:3]))}
    for name, python in (("dynamax", jax), ("cuthbert", jax), ("particles", particles)):
        if python:
            peers[name] = elsewhere(name, python, batch, length)
    own = ours(y, 2 if quick else 7)
    print(f"pendulum, {batch} series, {length} steps, one thread; CPU ms per series")
    print(f"{'filter':24}{'deepssm':>10}{'peer':>12}{'ms':>10}{'ratio':>9}{'largest gap':>14}")
    for peer, rows in peers.items():
        for label, theirs, answer in rows:
            seconds, mine = own[label.removesuffix(", no 1e-9")]
            print(
                f"{label:24}{1e3 * seconds:10.3f}{peer:>12}{1e3 * theirs:10.3f}"
                f"{theirs / seconds:9.1f}{gap(mine, answer):14.1e}"
            )


if __name__ == "__main__":
    main("--quick" in sys.argv, option("--jax"), option("--particles"))
