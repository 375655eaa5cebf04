"""Extended and unscented filters of users' own functions against dynamax and cuthbert.

    python benchmarks/traced.py [--quick] [--jax PYTHON]

One thread, float64, the least processor time of several calls, once before and once after each
peer, so that a busy machine does not change the ratios. Microseconds for a step of a series, all
included: `method.filter(model, series)` with moments before and after each observation. The peers
run compiled (`jit`, `vmap`) and give filtered moments. `gap` is the largest difference of filtered
means and covariances of the first series; dynamax adds 1e-9 to innovation variances.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from traced_cases import Case, cases, simulated
from traced_peers import best_seconds

import deepssm as ds
from deepssm.core.model import Series

HERE = Path(__file__).parent
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
METHODS = {"EKF": ds.inference.Extended(), "UKF": ds.inference.Unscented()}
SIZES = {"pendulum": (1_000, 1_000, 200), "coordinated turn": (1_000, 1_000, 100),
         "Lorenz-96": (1_000, 70, 70)}  # fmt: skip
BATCHES = (1, 100, 1_000)


def ours(case: Case) -> ds.models.NonlinearGaussian:
    """Return the model of a case."""
    numbers = [torch.from_numpy(x) for x in (case.Q, case.R, case.m0, case.P0)]
    names = dict(zip(("Q", "R", "m0", "P0"), numbers, strict=True))
    return ds.models.NonlinearGaussian(
        lambda z, u, dt: case.transition(torch, z), lambda z, u: case.emission(torch, z), **names
    )


def elsewhere(
    python: str, name: str, case: str, method: str, batch: int, length: int
) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Run a peer in its own environment; nothing if it has no such method or fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "0.npz")
        script = str(HERE / "traced_peers.py")
        command = [python, script, name, case, method, file, str(batch), str(length)]
        done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True)
        if done.returncode:
            return None
        with np.load(file) as saved:
            seconds, mean, cov, _ = saved.values()
        return float(seconds), mean, cov


def main(quick: bool = False, jax: str | None = None) -> None:
    torch.set_num_threads(1)
    head = ("model", "filter", "series", "deepssm", "peer", "us", "ratio", "gap")
    print("{:17}{:7}{:>7}{:>10}{:>10}{:>10}{:>7}{:>9}".format(*head))
    for name, case in cases().items():
        model = ours(case)
        for batch, length in zip(BATCHES, SIZES[name], strict=True):
            if quick and batch * len(case.m0) > 300:
                continue
            y = simulated(case, batch, length)
            series, unit = Series(torch.from_numpy(y)), 1e6 / batch / length
            for label, method in METHODS.items():
                one = method.filter(model, Series(series.y[0]))

                run = partial(method.filter, model, series)
                for peer in ("dynamax", "cuthbert")[: 2 if label == "EKF" else 1]:
                    before = best_seconds(run, 3)
                    found = elsewhere(jax, peer, name, label, batch, length) if jax else None
                    own = min(before, best_seconds(run, 3)) * unit
                    row = f"{name:17}{label:7}{batch:7}{own:10.3f}"
                    if found is not None:
                        theirs = found[0] * unit
                        gap = max(np.abs(one.mean.numpy() - found[1]).max(),
                                  np.abs(one.cov.numpy() - found[2]).max())  # fmt: skip
                        row += f"{peer:>10}{theirs:10.3f}{theirs / own:7.1f}{gap:9.0e}"
                    print(row, flush=True)


def option(name: str) -> str | None:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


if __name__ == "__main__":
    main("--quick" in sys.argv, option("--jax"))
