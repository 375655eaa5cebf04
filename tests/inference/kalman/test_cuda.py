"""One CUDA thread a series: in the simulator, through the compiler, and on a device."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from deepssm.core.model import LinearParameters, Series
from deepssm.inference import Kalman
from deepssm.inference.kalman.cuda import backend as kalman_cuda
from tests import oracles
from tests.given import Given, leaves_of, rebuilt

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = {
    "constant": {},
    "singular": {"process_rank": 1, "initial_rank": 2, "inputs": True},
    "varying": {"time_varying": True},
    "noiseless": {"process_rank": 1},
}


def make(name: str, series: int = 3, time: int = 6) -> tuple[LinearParameters, Tensor]:
    """A model and series with gaps, each in its own places."""
    batch = (series,) if name == "varying" else ()
    parameters = oracles.random_linear_gaussian(3, 2, time, 4, batch=batch, **CASES[name])
    if name == "noiseless":
        R = torch.zeros(1, 2, 2, dtype=torch.float64)
        R[0, 1, 1] = 0.3
        parameters = parameters._replace(emission=parameters.emission._replace(cov=R))
    y = 2 * torch.randn(series, time, 2, dtype=torch.float64)
    y[0, 1, 0], y[1, 2], y[2, 3, 1], y[2, 0, 0] = math.nan, math.nan, math.nan, math.nan
    return parameters, y


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(scale, 1.0))


def check(
    found: dict[str, list[Tensor]], name: str, parameters: LinearParameters, y: Tensor
) -> None:
    """Compare with the compiled loop. Its smoother, too, has a noiseless row to 1e-7 alone."""
    model, loop = Given(parameters), Kalman("sequential")
    smoother = 1e-6 if name == "noiseless" else 1e-12
    for part, tolerance in (("filter", 1e-12), ("smooth", smoother)):
        expected = getattr(loop, part)(model, Series(y))
        for actual, reference in zip(found[part], expected, strict=False):
            close(actual.double(), reference.double(), tolerance)
    expected = loop.log_likelihood(model, Series(y))
    for actual in found["log_likelihood"]:
        close(actual, expected)


def on_cuda(*shape: int) -> Any:  # noqa: ANN401
    """What a choice looks at: torch without CUDA makes no tensor there."""
    like = SimpleNamespace(device=torch.device("cuda"), shape=torch.Size(shape))
    like.numel = lambda: like.shape.numel()
    return like


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases and what the simulator makes of them; one process does all."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("simulated")
    made = {name: make(name) for name in CASES}
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    torch.save({k: (leaves_of(*made[k]), weight) for k in CASES}, folder / "in.pt")
    script = "tests.inference.kalman.cuda_simulated"
    subprocess.run(
        [sys.executable, "-m", script, str(folder / "in.pt"), str(folder / "out.pt")],
        check=True,
        cwd=HERE.parents[2],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
    )
    found = torch.load(folder / "out.pt", weights_only=True)
    return {name: (*made[name], weight, found[name]) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_the_compiled_loop(simulated: dict[str, Any], name: str) -> None:
    parameters, y, _, found = simulated[name]
    check(found, name, parameters, y)


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_the_joint_gaussian(simulated: dict[str, Any], name: str) -> None:
    parameters, y, _, found = simulated[name]
    tolerance = 1e-6 if name == "noiseless" else 1e-9
    expected = oracles.smooth(parameters, y)
    close(found["smooth"][0], expected.mean, tolerance)
    close(found["smooth"][1], expected.cov, tolerance)
    close(found["filter"][4], oracles.log_likelihood(parameters, y), tolerance)


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_the_compiled_loops(simulated: dict[str, Any], name: str) -> None:
    parameters, y, weight, found = simulated[name]
    leaves = [x.clone().requires_grad_() for x in leaves_of(parameters, y)]
    ll = Kalman("sequential").log_likelihood(Given(rebuilt(leaves)), Series(leaves[0]))
    expected = torch.autograd.grad((ll * weight[:, None]).sum(), leaves)
    for actual, reference in zip(found["gradient"], expected, strict=True):
        close(actual, reference)


def test_cuda_refuses_by_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, y = make("constant")
    model, method = Given(parameters), Kalman("cuda")
    monkeypatch.setattr(kalman_cuda, "installed", lambda: False)
    with pytest.raises(ValueError, match=r"deepssm\[gpu\]"):
        method.filter(model, Series(y))
    monkeypatch.setattr(kalman_cuda, "installed", lambda: True)
    with pytest.raises(ValueError, match="needs a model on a CUDA device, got one on cpu"):
        method.log_likelihood(model, Series(y))
    diffuse = oracles.random_linear_gaussian(3, 2, 6, 1, diffuse=1)
    with pytest.raises(ValueError, match="needs a proper start"):
        kalman_cuda.require(diffuse, on_cuda(3, 6, 2))


@pytest.mark.skipif(
    find_spec("numba_cuda") is None,
    reason="compiling for a GPU needs the extra `gpu`: pip install numba-cuda[cu13]",
)
@pytest.mark.parametrize("task", ["nothing", "moments", "factors", "smoother", "score"])
def test_kernels_compile_without_a_gpu(monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """The simulator checks no types. The filter of a small model must stay in registers."""
    from numba import types
    from numba.cuda import compile_ptx, dispatcher  # pyright: ignore

    from deepssm.inference.kalman.cuda.filter import filter_kernel
    from deepssm.inference.kalman.cuda.score import score_kernel
    from deepssm.inference.kalman.cuda.smoother import smoother_kernel

    hopper = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: hopper)
    one, two, four = (types.Array(types.float64, size, "C") for size in (1, 2, 4))
    params, pair = types.UniTuple(four, 6), types.UniTuple(four, 2)
    if task == "smoother":
        kernel, given = smoother_kernel(4, 2), (params, *[four] * 6)
    elif task == "score":
        kernel, given = score_kernel(4, 2), (params, *[four] * 4, params, pair)
    else:
        kernel, given = filter_kernel(4, 2, task), (params, pair, four, two, one, *[four] * 4)  # type: ignore[arg-type]
    source: Any = kernel.py_func  # pyright: ignore[reportAttributeAccessIssue]
    ptx, _ = compile_ptx(source, given, cc=(9, 0), fastmath=False)
    assert ".target sm_90" in ptx and ".f64" in ptx
    if task not in ("smoother", "score"):
        assert not re.search(r"(ld|st)\.local", ptx), "matrices have left the registers"
        # `|y| > inf`, or not ordered: the tests for missing data, which fast arithmetic drops.
        assert len(re.findall(r"setp\.gtu\.f64.*0d7FF0000000000000", ptx)) >= 2


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_device_equals_the_compiled_loop(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here; the simulator and the compiler are tested instead")
    if find_spec("numba_cuda") is None:
        pytest.skip("the extra `gpu` is not installed: pip install numba-cuda[cu13]")
    parameters, y = make(name, series=300, time=40)
    moved = [x.cuda().requires_grad_() for x in leaves_of(parameters, y)]
    model, data = Given(rebuilt(moved)), Series(moved[0])
    leaves = [x.clone().requires_grad_() for x in leaves_of(parameters, y)]
    loop = Kalman("sequential").log_likelihood(Given(rebuilt(leaves)), Series(leaves[0]))
    expected = torch.autograd.grad(loop.sum(), leaves)
    method = Kalman("cuda")
    ll = method.log_likelihood(model, data)
    for actual, reference in zip(torch.autograd.grad(ll.sum(), moved), expected, strict=True):
        close(actual.cpu(), reference, 1e-10)
    moments = method.filter(model, data)[:6], method.smooth(model, data)[:5]
    found = [[x.detach().cpu() for x in part] for part in moments]
    parts = {"filter": found[0], "smooth": found[1], "log_likelihood": [ll.detach().cpu()]}
    check(parts, name, parameters, y)
