"""Between torch and the CUDA kernels: arrays with the series last, lent without a copy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ....core.gaussian import psd_factor
from ....core.model import LinearParameters
from ..cpu.problem import batch_shape

if TYPE_CHECKING:
    from .steps import Kernel

# One warp: few series spread over all multiprocessors, and registers, not blocks, are the limit.
THREADS_IN_BLOCK = 32


class DeviceArrays(NamedTuple):
    """A model with a proper start and its data, in float64, the series last.

    Attributes:
        params: `A, b, LQ, C, d, R`, each `(time or 1, row, col or 1, series or 1)`.
        start: Mean `(1, n, 1, series or 1)` and factor of `P0`, `(1, n, n, series or 1)`.
        y: `(time, p, 1, series)`, NaN where missing.
        batch: Leading axes of the data and the parameters, broadcast.
    """

    params: tuple[Tensor, ...]
    start: tuple[Tensor, Tensor]
    y: Tensor
    batch: torch.Size

    @property
    def sizes(self) -> tuple[int, int]:
        """States and observations, which the kernels are compiled for."""
        return self.params[0].shape[1], self.params[3].shape[1]

    @property
    def series(self) -> int:
        """How many."""
        return self.y.shape[3]

    @property
    def unused(self) -> Tensor:
        """Stands for an output that a kernel does not write."""
        return self.y.new_empty(1, 1, 1, 1)

    def empty(self, *shape: int) -> Tensor:
        """Return room for `(*shape, series)` numbers."""
        return self.y.new_empty((*shape, self.series))

    def zeros(self, *shape: int) -> Tensor:
        """Return `(*shape, series)` zeros."""
        return self.y.new_zeros((*shape, self.series))

    def restore(self, x: Tensor, y: Tensor) -> Tensor:
        """Turn `(time, ..., series)` into `(*batch, time, ...)` of the dtype of `y`."""
        return x.movedim(-1, 0).reshape(*self.batch, *x.shape[:-1]).to(y.dtype)


def lay_out(parameters: LinearParameters, y: Tensor) -> DeviceArrays:
    """Factor the covariances and put the series last.

    Args:
        parameters: A model with a proper start.
        y: `(*batch, time, obs)`, NaN where missing.
    """
    batch = batch_shape(parameters, y)
    start, (A, b, Q), (C, d, R) = parameters
    _factor(R, "R")
    given = (A, b[..., None], _factor(Q, "Q"), C, d[..., None], R)
    first = (start.mean[..., None, :, None], _factor(start.cov, "P0")[..., None, :, :])
    mean, factor = (_series_last(x, batch) for x in first)
    data = y[..., None].expand(*batch, *y.shape[-2:], 1)
    params = tuple(_series_last(x, batch) for x in given)
    return DeviceArrays(params, (mean, factor), _series_last(data, batch), batch)


def launch(kernel: Kernel, series: int, *arguments: Any) -> None:  # noqa: ANN401
    """Run a kernel on torch's current stream, one thread for each series.

    Args:
        kernel: Compiled by numba, or by its simulator.
        series: How many.
        arguments: Tensors, contiguous, and tuples of them.
    """
    from .steps import simulated

    grid = (series + THREADS_IN_BLOCK - 1) // THREADS_IN_BLOCK, THREADS_IN_BLOCK
    if simulated():
        return kernel[grid](*_lent(arguments, lambda x: x.numpy()))
    _launch_on_device(kernel, grid, arguments)


def installed() -> bool:
    """Whether the extra `gpu` is there, or numba's simulator takes its place."""
    from .steps import simulated

    return simulated() or find_spec("numba_cuda") is not None


def _launch_on_device(kernel: Kernel, grid: tuple[int, int], arguments: tuple[Any, ...]) -> None:
    from numba import cuda

    device = next(x for x in arguments if isinstance(x, Tensor)).device
    with ExitStack() as stack:
        stack.enter_context(torch.cuda.device(device))
        stack.enter_context(cuda.gpus[torch.cuda.current_device()])
        stack.enter_context(warnings.catch_warnings())
        # One that it gives for every grid of few blocks: small batches are not its business.
        warnings.filterwarnings("ignore", message="Grid size")
        pointer = torch.cuda.current_stream().cuda_stream
        stream = cuda.external_stream(pointer) if pointer else 0
        kernel[(*grid, stream)](*_lent(arguments, cuda.as_cuda_array))


def _lent(x: Any, lend: Callable[[Tensor], Any]) -> Any:  # noqa: ANN401
    if isinstance(x, tuple):
        return tuple(_lent(part, lend) for part in x)
    return lend(x.detach())


def _series_last(x: Tensor, batch: torch.Size) -> Tensor:
    """Turn `(*batch, time, row, col)` into `(time, row, col, series or 1)`, contiguous."""
    x = x.detach().double()
    lead, event = x.shape[:-3], x.shape[-3:]
    if lead.numel() > 1:
        x = x.expand(*batch, *event)
    return x.reshape(-1, *event).movedim(0, -1).contiguous()


def _factor(cov: Tensor, name: str) -> Tensor:
    return psd_factor(cov.detach().double(), name, eps=torch.finfo(cov.dtype).eps)
