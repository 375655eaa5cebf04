"""Numbers of other people's code on inputs anyone can make again; `peer_numbers.json` says whose.

None of that code is here: it ran once, on the commits named there, and these are its outputs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepssm.linear import (
    Bilinear,
    Diagonal,
    LinearSystem,
    LowRankPlusDiagonal,
    View,
    ZeroOrderHold,
    chunked,
    convolved,
    legs,
    looped,
    scalar_decay_scan,
    scanned,
    selective_scan,
)
from deepssm.models import S4D

PEERS: dict[str, Any] = json.loads((Path(__file__).parent / "peer_numbers.json").read_text())
F64 = torch.float64


def draw(seed: int, *shape: int) -> Tensor:
    """Numbers in [-1, 1) by integer arithmetic, the same in every library."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64) + 1
    numbers = ((7919 * i * i + 104729 * i + 1009 * seed) % 65537) / 32768 - 1
    return torch.from_numpy(numbers.reshape(shape))


def single(seed: int, *shape: int) -> Tensor:
    return draw(seed, *shape).float()


def close(result: Tensor, expected: object, tolerance: float, largest: float) -> None:
    error = (result.detach().double() - torch.tensor(expected, dtype=F64)).abs().max().item()
    assert error <= tolerance * largest, error / largest


@pytest.mark.parametrize("row", PEERS["annotated_s4"]["rows"], ids=lambda row: row["length"])
def test_cauchy_kernel_equals_annotated_s4(row: dict[str, Any]) -> None:
    """Their unitary coordinates differ by phases, so the rows `C` are given in real ones."""
    modes, time = legs(64).modes(), row["length"]
    structure = LowRankPlusDiagonal(modes.eigenvalues, modes.low_rank)
    C = draw(1, 1, 64).to(torch.complex128) @ modes.basis
    system = LinearSystem(structure, modes.B[:, None], C, None, Bilinear())
    kernel = system.kernel(time, dt=1 / time)[0, 0]
    close(kernel[row["lags"]], row["kernel"], 1e-11, row["largest"])
    assert abs(kernel.norm().item() / row["norm"] - 1) <= 1e-11


@pytest.mark.parametrize("view", [looped, scanned, chunked, convolved])
@pytest.mark.parametrize("row", PEERS["s5"]["rows"], ids=lambda row: row["rule"])
def test_outputs_equal_s5(row: dict[str, Any], view: View) -> None:
    """Both directions of theirs are two systems of ours."""
    rule, *both = row["rule"].split(", ")
    B = torch.complex(draw(2, 32, 64), draw(3, 32, 64))
    dt, u = 1e-3 + 0.05 * (draw(6, 32) + 1), draw(7, 256, 64)
    y = torch.zeros_like(u)
    for seed, reverse in ((4, False), (8, True))[: 1 + len(both)]:
        C = torch.complex(draw(seed, 64, 32), draw(seed + 1, 64, 32))
        structure = Diagonal(legs(64).modes().eigenvalues * dt)
        system = LinearSystem(structure, B * dt[:, None], C)
        system = system._replace(rule=ZeroOrderHold() if rule == "zoh" else Bilinear())
        y = y + system.apply(u, reverse=reverse, view=view)
    outputs = y[row["times"]][:, row["features"]]
    close(outputs, row["outputs"], 1e-12, row["largest"])
    assert abs(y.norm().item() / row["norm"] - 1) <= 1e-12


@pytest.mark.parametrize("row", PEERS["selective_scan_ref"]["rows"])
def test_selective_scan_equals_mamba(row: dict[str, Any]) -> None:
    """With softplus, bias, skip and gate around it, as their one function has them."""
    batch, d, n, time = 2, 6, 8, 300
    shape = (batch, time, 1, n) if row["variable"] else (1, 1, d, n)
    A, B, C = -(single(1, d, n) + 1) / 2 - 0.1, single(8, *shape), single(9, *shape)
    if row["complex"]:
        A = torch.complex(A, single(2, d, n))
        B, C = torch.complex(B, single(10, *shape)), torch.complex(C, single(11, *shape))
    u, delta, gate = (single(seed, batch, time, d) for seed in (3, 4, 5))
    y, last = selective_scan(u, F.softplus(delta + single(7, d)), A, B, C)
    y = (y + single(6, d) * u) * F.silu(gate)
    close(y[1, row["times"]], row["outputs"], 1e-5, row["largest"])
    assert abs(y.norm().item() / row["norm"] - 1) <= 1e-5
    state = torch.view_as_real(last) if row["complex"] else last
    close(state[0, :2], row["last"], 1e-5, row["largest_state"])


def test_scalar_decay_equals_mamba_2() -> None:
    row = PEERS["ssd_minimal_discrete"]["rows"][0]
    u, B, C = single(1, 2, 256, 4, 8), single(3, 2, 256, 4, 16), single(4, 2, 256, 4, 16)
    y, last = scalar_decay_scan(u, -(single(2, 2, 256, 4) + 1) / 2, B, C)
    close(y[1, row["times"]][..., :2], row["outputs"], 1e-5, row["largest"])
    close(last[0, :2, 0], row["last"], 1e-5, row["largest_state"])


def s4d() -> S4D:
    """Return a layer with the parameters that the peers' were given."""
    layer, modes = S4D(4, 32), 32
    with torch.no_grad():
        layer.log_dt.copy_(-4.6 + 2.3 * single(1, 4))
        layer.log_decay.copy_(-0.6931472 + 0.2 * single(2, 4, modes))
        assert layer.frequency is not None
        layer.frequency.copy_(torch.pi * torch.arange(modes) + 0.3 * single(3, 4, modes))
        layer.C.copy_(single(4, 4, modes, 2))
        layer.D.copy_(single(5, 4))
    return layer


def test_s4d_equals_its_authors_kernel_and_block() -> None:
    layer, row = s4d(), PEERS["s4d"]["rows"][0]
    kernel = layer.system().kernel(1000)[:, 0, 0]
    close(kernel[:, row["lags"]], row["kernel"], 1e-6, row["kernel_largest"])
    mixed = F.gelu(layer(single(8, 1, 1000, 4))) @ single(6, 8, 4).mT + single(7, 8)
    block = F.glu(mixed, -1)[0, row["lags"]]
    close(block, row["block"], 1e-5, row["block_largest"])
    again = PEERS["s4_diag_lin"]["rows"][0]
    close(kernel[:, again["lags"]], again["kernel"], 1e-5, again["kernel_largest"])
