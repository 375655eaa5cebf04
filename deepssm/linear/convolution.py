"""Causal convolution by FFT, and the view of a time-invariant system as its impulse response."""

from __future__ import annotations

from typing import Any

import scipy.fft
import torch
from torch import Tensor

from .recurrence import Recurrence, scanned


def causal_convolution(u: Tensor, kernel: Tensor) -> Tensor:
    """Return `y_t = sum_{l <= t} kernel_l u_{t-l}` along the last axis.

    Padded to a fast length, so nothing wraps around; in float32 at least, also under autocast.

    Args:
        u: `(*batch, time)`.
        kernel: `(*batch, time)`, of any length.

    Returns:
        `(*batch, time)`, of the length of `u`.
    """
    size = u.shape[-1]
    fast = scipy.fft.next_fast_len(size + kernel.shape[-1] - 1, real=True)
    with torch.autocast(u.device.type, enabled=False):
        if u.is_complex() or kernel.is_complex():
            product = torch.fft.fft(_wide(u), fast) * torch.fft.fft(_wide(kernel), fast)
            return torch.fft.ifft(product)[..., :size]
        result: Any = _Convolution.apply(_wide(u), _wide(kernel), fast)
        return result


class _Convolution(torch.autograd.Function):
    """The gradients are correlations: two transforms more, of real series (PyTorch takes four)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, kernel: Tensor, fast: int) -> Tensor:  # noqa: ANN401
        inputs, response = torch.fft.rfft(u, fast), torch.fft.rfft(kernel, fast)
        ctx.save_for_backward(u, kernel, inputs, response)
        return torch.fft.irfft(inputs * response, fast)[..., : u.shape[-1]]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        u, kernel, inputs, response = ctx.saved_tensors
        size, length = u.shape[-1], kernel.shape[-1]
        fast = scipy.fft.next_fast_len(size + length - 1, real=True)
        if torch.is_grad_enabled():  # for second derivatives: with operations that have their own
            turned = grads[0].flip(-1)
            du = causal_convolution(turned, kernel).flip(-1)
            d_kernel = causal_convolution(turned, u).flip(-1)
            d_kernel = torch.nn.functional.pad(d_kernel, (0, max(0, length - size)))[..., :length]
        else:
            spectrum = torch.fft.rfft(grads[0], fast)
            du = torch.fft.irfft(spectrum * response.conj(), fast)[..., :size]
            shared = (spectrum * inputs.conj()).sum_to_size(response.shape)
            d_kernel = torch.fft.irfft(shared, fast)[..., :length]
        return du.sum_to_size(u.shape), d_kernel.sum_to_size(kernel.shape), None


def convolved(
    recurrence: Recurrence, u: Tensor, z0: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Convolve the inputs with the impulse response and add the free response of `z0`.

    A time-varying recurrence has no single impulse response: it is scanned instead.

    Args:
        recurrence: What to solve.
        u: Inputs, `(*batch, time, m)`.
        z0: State before the first step, `(*batch, n)`; zero when `None`.

    Returns:
        Outputs `(*batch, time, p)`, and the last state only where it cost nothing.
    """
    if recurrence.varying:
        return scanned(recurrence, u, z0)
    time = u.shape[-2]
    kernel = recurrence.transition.kernel(recurrence.B, recurrence.C, time)
    y = recurrence.feed_through(_convolve_channels(u, kernel), u)
    if z0 is not None:
        start = recurrence.start(u, z0)
        y = y + recurrence.transition.response(recurrence.C, start, time)
    return y, None


def _convolve_channels(u: Tensor, kernel: Tensor) -> Tensor:
    """Convolve `(*batch, time, m)` with `(*batch, p, m, time)`, summed over `m`."""
    if kernel.shape[-2] == 1 and kernel.shape[-3] == 1:
        return causal_convolution(u[..., 0], kernel[..., 0, 0, :])[..., None]
    size = u.shape[-2]
    fast = scipy.fft.next_fast_len(size + kernel.shape[-1] - 1, real=True)
    with torch.autocast(u.device.type, enabled=False):
        inputs = torch.fft.rfft(_wide(u), fast, dim=-2)
        product = torch.einsum("...pml,...lm->...lp", torch.fft.rfft(_wide(kernel), fast), inputs)
        return torch.fft.irfft(product, fast, dim=-2)[..., :size, :]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
