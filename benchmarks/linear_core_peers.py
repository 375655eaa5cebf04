"""Other people's S4D, S4 and scans, loaded from a folder; none of their code lives here.

The folder holds `s4d.py` and `s4.py` of state-spaces/s4 (`models/s4/`) and, by
`pip install --no-deps --target FOLDER`, mambapy, accelerated-scan and einops. Whatever is missing
is left out of the table.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def load(folder: Path) -> dict[str, Any]:
    """Import what the folder has; s4's packaging imports get stand-ins."""
    sys.path.insert(0, str(folder))
    for name, attributes in (
        ("src", {}),
        ("src.models", {}),
        ("src.models.nn", {"DropoutNd": torch.nn.Dropout}),
        ("pytorch_lightning", {}),
        ("pytorch_lightning.utilities", {"rank_zero_only": lambda f: f}),
    ):
        module = types.ModuleType(name)
        vars(module).update(attributes)
        sys.modules.setdefault(name, module)
    found = {}
    for name in ("s4d", "s4", "mambapy.pscan", "accelerated_scan.ref"):
        try:
            found[name] = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  a peer that does not import is a finding
            print(f"# {name} left out: {type(error).__name__}: {error}")
    return found


def s4d(found: dict[str, Any], parts: tuple[Tensor, ...]) -> Callable[[Tensor], Tensor] | None:
    """Return `u (B, H, L) -> y` by state-spaces' S4D kernel with the given parameters."""
    if "s4d" not in found:
        return None
    log_dt, log_decay, frequency, C = parts
    kernel = found["s4d"].S4DKernel(len(log_dt), N=2 * C.shape[1]).to(log_dt.device)
    del kernel.log_dt, kernel.log_A_real, kernel.A_imag, kernel.C
    kernel.log_dt, kernel.log_A_real, kernel.A_imag = log_dt, log_decay, frequency
    kernel.C = torch.view_as_real(C)

    def apply(u: Tensor) -> Tensor:
        time = u.shape[-1]
        k_f = torch.fft.rfft(kernel(L=time), n=2 * time)
        return torch.fft.irfft(torch.fft.rfft(u, n=2 * time) * k_f, n=2 * time)[..., :time]

    return apply


def s4(found: dict[str, Any], channels: int, modes: int, time: int) -> Any | None:  # noqa: ANN401
    """Return state-spaces' S4 kernel (DPLR, LegS) of one size, and its parameters."""
    if "s4" not in found:
        return None
    kernel = found["s4"].SSMKernelDPLR(d_model=channels, d_state=2 * modes, l_max=time)
    return lambda: kernel(L=time)[0], [x for x in kernel.parameters() if x.requires_grad]


def mambapy(found: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return `(gates (N,), drive (B, L, N)) -> states` by mambapy's parallel scan."""
    if "mambapy.pscan" not in found:
        return None
    pscan = found["mambapy.pscan"].pscan

    def apply(gates: Tensor, drive: Tensor) -> Tensor:
        full = gates.expand_as(drive)[..., None].contiguous()
        return pscan(full, drive[..., None].contiguous())[..., 0]

    return apply


def mambapy_varying(found: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return `(gates (B, L, D, N), drive) -> states` by mambapy's parallel scan."""
    return found["mambapy.pscan"].pscan if "mambapy.pscan" in found else None


def accelerated(found: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return the same by accelerated-scan's reference, whose lengths are powers of two."""
    if "accelerated_scan.ref" not in found:
        return None
    scan = found["accelerated_scan.ref"].scan

    def apply(gates: Tensor, drive: Tensor) -> Tensor:
        full = gates.expand_as(drive).mT.contiguous()
        return scan(full, drive.mT.contiguous()).mT

    return apply


def torch_scan(gates: Tensor, drive: Tensor) -> Tensor:
    """Return the same by PyTorch's own `associative_scan` (a private name so far)."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return a[0] * b[0], b[0] * a[1] + b[1]

    full = gates.expand_as(drive).contiguous()
    return associative_scan(combine, (full, drive), 1, combine_mode="generic")[1]
