"""The peers of `traced.py`; run as a script, a worker in an environment of its own.

python benchmarks/traced_peers.py dynamax|cuthbert CASE METHOD FILE BATCH LENGTH
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from traced_cases import Case, cases, simulated


def best_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Return the least processor time of several calls, the first left out."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def dynamax(case: Case, method: str) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Return dynamax's filter: means, covariances and log-likelihood."""
    import jax.numpy as jnp
    from dynamax.nonlinear_gaussian_ssm import (
        ParamsNLGSSM,
        UKFHyperParams,
        extended_kalman_filter,
        unscented_kalman_filter,
    )

    numbers = [jnp.array(x) for x in (case.m0, case.P0, case.Q, case.R)]
    params = ParamsNLGSSM(
        numbers[0], numbers[1], lambda z: case.transition(jnp, z), numbers[2],
        lambda z: case.emission(jnp, z), numbers[3],
    )  # fmt: skip

    def run(y: Any) -> tuple[Any, Any, Any]:  # noqa: ANN401
        if method == "EKF":
            found = extended_kalman_filter(params, y)
        else:
            found = unscented_kalman_filter(params, y, UKFHyperParams(1.0, 0.0, 0.0))
        return found.filtered_means, found.filtered_covariances, found.marginal_loglik

    return run


def cuthbert(case: Case, method: str) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Return cuthbert's filter by linearised moments, square-root form."""
    import cuthbert
    import jax.numpy as jnp
    from cuthbert.gaussian import moments

    LQ, LR, LP = (jnp.array(np.linalg.cholesky(x)) for x in (case.Q, case.R, case.P0))
    m0 = jnp.array(case.m0)

    def move(state: Any, at: Any) -> Any:  # noqa: ANN401
        first = at[0] == 0  # its start emits nothing, so the first step stays where it is
        return (
            lambda z: (jnp.where(first, z, case.transition(jnp, z)), jnp.where(first, 0 * LQ, LQ))
        ), state.mean

    def see(state: Any, at: Any) -> Any:  # noqa: ANN401
        return lambda z: (case.emission(jnp, z), LR), state.mean, at[1]

    law = moments.build_filter(m0, LP, move, see)

    def run(y: Any) -> tuple[Any, Any, Any]:  # noqa: ANN401
        states = cuthbert.filter(law, (jnp.arange(len(y)), y), law.init_prepare())
        factors = states.chol_cov[1:]
        return states.mean[1:], factors @ factors.mT, states.log_normalizing_constant[-1]

    return run


def main(name: str, case: str, method: str, file: str, batch: str, length: str) -> None:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    model = cases()[case]
    run = {"dynamax": dynamax, "cuthbert": cuthbert}[name](model, method)
    y = jnp.array(simulated(model, int(batch), int(length)))
    compiled = jax.jit(jax.vmap(run))
    seconds = best_seconds(lambda: jax.block_until_ready(compiled(y)), 3)
    answer = [np.asarray(x[0]) for x in compiled(y[:1])]
    np.savez(file, np.array(seconds), *answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
