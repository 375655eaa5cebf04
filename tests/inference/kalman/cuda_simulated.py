"""Run in a process of its own: the CUDA kernels in numba's simulator, from and to a file.

The simulator runs every thread as Python and must be chosen before `numba.cuda` is imported: by
`NUMBA_ENABLE_CUDASIM=1` in this process' environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from deepssm.core.model import LinearParameters, Series
from deepssm.inference import Kalman
from tests.given import Given, leaves_of, rebuilt


def main(source: Path, target: Path) -> None:
    """Filter, smooth and differentiate every case of the file `source`."""
    cases = torch.load(source, weights_only=True)
    torch.save({name: run(*case) for name, case in cases.items()}, target)


def run(leaves: list[torch.Tensor], weight: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    y, *rest = (x.requires_grad_() for x in leaves)
    parameters: LinearParameters = rebuilt([y, *rest])
    model, method = Given(parameters), Kalman("cuda")
    ll = method.log_likelihood(model, Series(y))
    grads = torch.autograd.grad((ll * weight[..., None]).sum(), leaves_of(parameters, y))
    with torch.no_grad():
        filtered = method.filter(model, Series(y))
        smoothed = method.smooth(model, Series(y))
        alone = method.log_likelihood(model, Series(y))
    return {
        "filter": [*filtered[:6]],
        "smooth": [*smoothed[:5]],
        "gradient": list(grads),
        "log_likelihood": [ll.detach(), alone],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
