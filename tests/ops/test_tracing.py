"""Traced functions against torch: values by running them, derivatives by autograd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepssm.ops.tracing.evaluate import evaluate
from deepssm.ops.tracing.machine_code import text_of
from deepssm.ops.tracing.program import Program, Untraceable
from deepssm.ops.tracing.traced import Traced, trace

A = torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.9, -0.3], [0.1, 0.0, 1.1]], dtype=torch.float64)


def written(z: Tensor) -> Tensor:
    out = torch.zeros_like(z)
    out[..., 0] = z[..., 1] * z[..., 2]
    out[..., 1:] += z[..., :2].exp()
    return out


def elementwise(z: Tensor) -> Tensor:
    parts = (z.sin() * z.cos(), z.tanh() + z.atan(), torch.atan2(z, 1.0 + z.square()))
    more = (z.abs().sqrt(), (2.0 + z).log(), torch.sigmoid(z), nn.functional.softplus(z))
    return sum(parts) + sum(more) + z.pow(3) / (1 + z**2) + torch.hypot(z, z + 1) + torch.erf(z)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elementwise": elementwise,
    "where and clamp": lambda z: torch.where(z > 0.3, z, -z).clamp(0.1, 0.8) + z.relu(),
    "products": lambda z: z @ A.T
    + torch.einsum("ij,...j->...i", A, z)
    + (A @ z[..., None])[..., 0],
    "joins": lambda z: torch.cat((torch.stack((z[..., 0], z[..., 2]), -1), z[..., 1:2]), -1),
    "reductions": lambda z: z / z.norm(dim=-1, keepdim=True) + z.mean(-1, keepdim=True)
    + z.amax(-1, keepdim=True) + torch.softmax(z, -1) + torch.logsumexp(z, -1, keepdim=True),
    "shifts": lambda z: torch.roll(z, 1, -1) * z.flip(-1)
    + torch.cumsum(z, -1) + z[..., [2, 0, 1]],
    "cross": lambda z: torch.linalg.cross(z, z.square() + 1.0),
    "angles": lambda z: torch.remainder(7 * z + torch.pi, 2 * torch.pi) - torch.pi,
    "written in place": written,
}  # fmt: skip


def traced(function: Callable[[Tensor], Tensor]) -> Traced:
    start = torch.full((1, 3), 0.4, dtype=torch.float64)
    return trace(lambda z, u, dt: (function(z),), start, None, None)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_jacobians_and_adjoints(name: str) -> None:
    function, z = FUNCTIONS[name], torch.rand(4, 3, dtype=torch.float64)
    found = evaluate(traced(function), z.numpy(), np.zeros((4, 0)), slopes=True)
    size = function(z).shape[-1]
    np.testing.assert_allclose(found[:, :size], function(z).numpy(), rtol=1e-13, atol=1e-13)
    for i, x in enumerate(z):
        rows = torch.autograd.functional.jacobian(lambda x: function(x[None])[0], x)
        np.testing.assert_allclose(
            found[i, size:].reshape(size, 3), torch.as_tensor(rows).numpy(), rtol=1e-12, atol=1e-12
        )


class Fall(nn.Module):
    """A step with a learnable number and a small network."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        layers = nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.ELU()
        self.net = nn.Sequential(*layers, nn.Linear(width, 3)).double()

    def forward(self, z: Tensor) -> Tensor:
        return z + self.g.exp() * z.sin() + self.net(z)


def test_parameters_are_inputs_so_that_learning_compiles_nothing() -> None:
    step = Fall()
    known, z = traced(step), torch.rand(2, 3, dtype=torch.float64)
    code = known.linearized()
    with torch.no_grad():
        for p in step.parameters():
            p.mul_(0.7)
    found = evaluate(known, z.numpy(), np.zeros((2, 0)), slopes=False)
    np.testing.assert_allclose(found, step(z).detach().numpy(), rtol=1e-12)
    assert known.linearized() is code
    assert traced(step).linearized() is code


def test_a_second_trace_has_the_same_text() -> None:
    """So that another process finds the object code on disk."""
    step = Fall()
    texts = [text_of(x.program, x.flat, lanes=8) for x in (traced(step), traced(step))]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda z: z if float(z[0, 0]) > 0 else -z, "branches"),
        (lambda z: torch.special.i0(z), "`i0`|`special_i0`"),
        (lambda z: z + torch.rand(3, dtype=torch.float64), "random"),
        (lambda z: z[z > 0][None], "index"),
        (lambda z: z.sum(), "axis of points"),
    ],
)
def test_what_cannot_be_traced_says_why(function: Callable[[Tensor], Tensor], why: str) -> None:
    with pytest.raises(Untraceable, match=why):
        traced(function)


def test_programs_that_grow_too_large_stop() -> None:
    def long(z: Tensor) -> Tensor:
        for i in range(20_000):
            z = (z + i).sin()
        return z

    with pytest.raises(Untraceable, match="operations a step"):
        traced(long)


def test_constants_fold_and_zeros_vanish() -> None:
    program = Program()
    x = program.input("z", 0)
    assert program.emit("mul", x, 0.0) == 0.0
    assert program.emit("add", x, 0.0) == x
    assert program.emit("sin", 0.0) == 0.0
    assert program.emit("mul", x, 2.0) == program.emit("mul", x, 2.0)
