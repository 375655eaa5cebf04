"""What every sequence layer promises, checked for all, and each layer against its paper."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepssm import models
from deepssm.linear import ZeroOrderHold, fourier, lagt, legt, s4d_inv, s4d_lin, s4d_real
from deepssm.models import (
    DSS,
    LRU,
    LSSL,
    S4,
    S4D,
    S5,
    Bidirectional,
    CausalAttention,
    CausalCNN,
    Mamba,
    Recurrent,
    ResidualBlock,
    SequenceLayer,
    param_groups,
)

F64 = torch.float64
H = 6
SPACES: dict[str, Callable[[], SequenceLayer]] = {
    "s4d": lambda: S4D(H, 4),
    "s4d-lin": lambda: S4D(H, 4, initial=s4d_lin),
    "s4d-inv": lambda: S4D(H, 4, initial=s4d_inv),
    "s4d-real": lambda: S4D(H, 4, initial=s4d_real),
    "dss": lambda: DSS(H, 100, 4),
    "s4": lambda: S4(H, 4),
    "s4-zoh": lambda: S4(H, 4, rule=ZeroOrderHold()),
    "s4-legt": lambda: S4(H, 4, measure=legt),
    "s4-lagt": lambda: S4(H, 4, measure=lagt),
    "s4-fourier": lambda: S4(H, 4, measure=fourier),
    "s5": lambda: S5(H, 4, blocks=2),
    "lssl": lambda: LSSL(H, 8, learn=True),
    "lru": lambda: LRU(H, 4),
    "mamba": lambda: Mamba(H, 4),
    "mamba-2": lambda: Mamba(H, 4, heads=3),
}
OTHERS: dict[str, Callable[[], SequenceLayer]] = {
    "rnn": lambda: Recurrent(H, "rnn"),
    "lstm": lambda: Recurrent(H, "lstm"),
    "gru": lambda: Recurrent(H, "gru"),
    "cnn": lambda: CausalCNN(H, depth=3),
    "attention": lambda: CausalAttention(H, 2),
    "block": lambda: ResidualBlock(S4D(H, 4)),
    "post-norm": lambda: ResidualBlock(Recurrent(H), norm="post"),
}
ALL = SPACES | OTHERS


@pytest.mark.parametrize("name", ALL)
def test_pieces_and_single_steps_equal_the_whole(name: str) -> None:
    layer = ALL[name]().double()
    u = torch.randn(2, 90, H, dtype=F64)
    whole = layer(u)
    assert whole.shape == u.shape
    state, pieces = None, []
    for piece in u.split([1, 4, 70, 15], -2):
        y, state = layer.run(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, -2), whole, rtol=1e-9, atol=1e-9)
    advance, state, outputs = layer.stepper(), None, []
    for t in range(20):
        y, state = advance(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, -2), whole[:, :20], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("block", "post-norm")])
def test_masked_inputs_do_not_matter(name: str) -> None:
    """A block adds its input to its output, so there it is the stack that cleans."""
    layer = ALL[name]().double()
    u, mask = torch.randn(2, 30, H, dtype=F64), torch.rand(2, 30) > 0.3
    dirty = torch.where(mask[..., None], u, torch.nan)
    assert torch.equal(layer(dirty, mask=mask), layer(u, mask=mask))


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_learns(name: str) -> None:
    layer = ALL[name]()
    u = torch.randn(2, 40, H)
    if isinstance(layer, ResidualBlock) and not layer.before:
        # Normalized outputs have fixed squares.
        layer(u)[..., 0].square().sum().backward()
    else:
        layer(u).square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", SPACES)
def test_irregular_steps_in_pieces(name: str) -> None:
    layer = SPACES[name]().double()
    u, dt = torch.randn(2, 80, H, dtype=F64), 2 * torch.rand(2, 80, dtype=F64)
    whole = layer(u, dt=dt, rate=0.5)
    state, pieces = None, []
    for time in (slice(0, 1), slice(1, 30), slice(30, 80)):
        y, state = layer.run(u[:, time], state, dt=dt[:, time], rate=0.5)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, -2), whole, rtol=1e-9, atol=1e-9)
    later = layer(u, dt=torch.cat([dt[:, :1] + 1, dt[:, 1:]], 1), rate=0.5)
    assert torch.equal(later, whole), "entry 0 of dt is unused at the start"
    even = layer(u, dt=torch.ones_like(dt))
    torch.testing.assert_close(even, layer(u), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["s4d", "s5", "s4-zoh", "dss"])
def test_half_the_rate_gives_the_same_outputs_on_held_inputs(name: str) -> None:
    layer = SPACES[name]().double()
    u = torch.randn(2, 30, H, dtype=F64)
    full = layer(u.repeat_interleave(2, -2))[:, 1::2]
    torch.testing.assert_close(layer(u, rate=2.0), full, rtol=1e-9, atol=1e-9)
    assert (layer(u) - full).abs().max() > 1e-3


@pytest.mark.parametrize("name", OTHERS)
def test_layers_without_time_refuse_steps(name: str) -> None:
    layer, u = OTHERS[name](), torch.randn(1, 5, H)
    if name == "block":
        layer = ResidualBlock(Recurrent(H))
    with pytest.raises(ValueError, match="`dt` and `rate` mean nothing to a"):
        layer(u, rate=2.0)
    with pytest.raises(ValueError, match="`dt` and `rate` mean nothing to a"):
        layer(u, dt=torch.ones(1, 5))


@pytest.mark.parametrize("name", ["s4d", "s4", "s5", "lru", "dss", "lssl"])
def test_autocast_leaves_the_core_in_full_precision(name: str) -> None:
    layer = SPACES[name]()
    u = torch.randn(2, 300, H)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(u), layer(u.bfloat16())
    assert torch.equal(mixed[0], layer(u))
    torch.testing.assert_close(mixed[1].float(), layer(u.bfloat16().float()), rtol=0, atol=0.1)


def test_selection_runs_under_autocast() -> None:
    layer, u = Mamba(H, 4), torch.randn(2, 100, H)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(u)
    torch.testing.assert_close(mixed.float(), layer(u), rtol=0, atol=0.05)


def test_bidirectional_mirrors_and_refuses_pieces() -> None:
    torch.manual_seed(4)
    layer = Bidirectional(S5(H, 4), S5(H, 4)).double()
    mirror = Bidirectional(layer.backwards, layer.forwards)
    u, dt = torch.randn(2, 30, H, dtype=F64), torch.rand(2, 30, dtype=F64)
    mask = torch.rand(2, 30) > 0.3
    back = dt.roll(-1, -1).flip(-1)
    expected = mirror(u.flip(-2), dt=back, mask=mask.flip(-1)).flip(-2)
    torch.testing.assert_close(layer(u, dt=dt, mask=mask), expected, rtol=1e-10, atol=1e-10)
    assert not torch.equal(layer(u)[:, 0], layer(u[:, :29])[:, 0])
    with pytest.raises(ValueError, match="`Bidirectional` sees the future"):
        layer.run(u)


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="`blocks` must divide `modes` = 4, got 3"):
        S5(H, 4, blocks=3)
    with pytest.raises(ValueError, match="`heads` must divide 12"):
        Mamba(H, heads=5)
    with pytest.raises(ValueError, match="`heads` must divide `features` = 6, got 4"):
        CausalAttention(H, 4)
    with pytest.raises(ValueError, match="`state` must be what this layer returned"):
        S4D(H, 4).run(torch.randn(1, 3, H), (torch.zeros(1),))
    nested = (torch.zeros(1), (torch.zeros(1),))
    with pytest.raises(ValueError, match="`state` must be what this layer returned"):
        Mamba(H, 4).run(torch.randn(1, 3, H), nested)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("block", "post-norm")])
def test_wrong_sizes_are_refused_by_every_layer(name: str) -> None:
    """One column instead of many would broadcast to all features without a word."""
    layer = ALL[name]()
    for shape in ((2, 5, 1), (2, 0, layer.features), (layer.features,)):
        with pytest.raises(ValueError, match=r"`u` must end in `\(time, \d+\)`.*got shape"):
            layer(torch.zeros(shape))


def test_param_groups_spare_the_state_matrices() -> None:
    layer = ResidualBlock(S4(H, 4))
    fast, slow = param_groups(layer, lr=0.01, slow_lr=0.001, weight_decay=0.1)
    assert (fast["lr"], fast["weight_decay"]) == (0.01, 0.1)
    assert (slow["lr"], slow["weight_decay"]) == (0.001, 0.0)
    inner = layer.layer
    assert isinstance(inner, S4)
    expected = [inner.log_dt, inner.log_decay, inner.frequency, inner.low_rank, inner.B]
    assert isinstance(slow["params"], list) and isinstance(fast["params"], list)
    assert {id(p) for p in slow["params"]} == {id(p) for p in expected}
    assert len(fast["params"]) + len(slow["params"]) == len(list(layer.parameters()))
    assert len(param_groups(Recurrent(H))) == 1
    real = S4D(H, 3, initial=s4d_real)
    assert len(param_groups(real)) == 2
    torch.optim.AdamW([fast, slow])


def direct(layer: SequenceLayer, kernel: Tensor, u: Tensor) -> Tensor:
    """Convolve by summation, channel by channel, and add the skip connection."""
    D = layer.get_parameter("D")
    y = torch.zeros_like(u)
    for lag in range(u.shape[-2]):
        y[:, lag:] += kernel[:, lag] * u[:, : u.shape[-2] - lag]
    return y + D * u


def test_s4d_is_the_published_kernel() -> None:
    """Gu et al. (2022), listing 1: `2 Re sum C (exp(dt A) - 1) / A exp(dt A l)`."""
    layer = S4D(H, 4).double()
    dt, A = layer.log_dt.exp()[:, None, None], layer.poles()[..., None]
    C = torch.view_as_complex(layer.C)[..., None]
    lags = torch.arange(50, dtype=F64)
    kernel = 2 * (C * ((dt * A).exp() - 1) / A * (dt * A * lags).exp()).real.sum(1)
    u = torch.randn(2, 50, H, dtype=F64)
    torch.testing.assert_close(layer(u), direct(layer, kernel, u), rtol=1e-10, atol=1e-10)


def test_dss_is_the_softmax_kernel() -> None:
    """Gupta et al. (2022), proposition 1(b), at the training length."""
    layer = DSS(H, 50, 4).double()
    C, A = torch.view_as_complex(layer.C), layer.poles()
    exponents = (A * layer.log_dt.exp()[:, None])[..., None] * torch.arange(50, dtype=F64)
    rows = exponents.exp() / exponents.exp().sum(-1, keepdim=True)
    kernel = 2 * ((C / A)[..., None] * rows).real.sum(1)
    u = torch.randn(2, 50, H, dtype=F64)
    torch.testing.assert_close(layer(u), direct(layer, kernel, u), rtol=1e-9, atol=1e-9)


def test_lru_is_the_published_recurrence() -> None:
    """Orvieto et al. (2023), appendix A: `x = lambda x + gamma B u`, `y = Re(C x) + D u`."""
    layer = LRU(H, 4).double()
    modes = layer.logarithms().exp()
    gamma = (1 - modes.abs() ** 2).sqrt()
    assert (layer.log_gain.exp() - gamma).abs().max() < 1e-5, "starts at the normalization"
    B = torch.view_as_complex(layer.B) * layer.log_gain.exp()[:, None]
    C = torch.view_as_complex(layer.C)
    u = torch.randn(30, H, dtype=F64)
    x, outputs = torch.zeros(4, dtype=B.dtype), []
    for t in range(30):
        x = modes * x + B @ u[t].to(B.dtype)
        outputs.append((C @ x).real + layer.D * u[t])
    torch.testing.assert_close(layer(u), torch.stack(outputs), rtol=1e-10, atol=1e-10)


def test_s5_starts_from_blocks_of_hippo() -> None:
    """Every block has the modes of a small LegS, and `B` the scale of the paper."""
    layer = S5(H, 8, blocks=2, smallest_dt=0.1, largest_dt=0.1)
    assert torch.equal(layer.frequency[:4], layer.frequency[4:])
    assert (layer.log_decay.exp() - 0.5).abs().max() < 1e-6
    assert (layer.log_dt - math.log(0.1)).abs().max() < 1e-6
    # Lecun-normal B of 16 real rows; the modes keep half of its squared norm, 16 / 2 on average.
    assert 4 < layer.B.square().sum() < 14


def test_mamba_is_the_published_block() -> None:
    """Gu & Dao (2023), figure 3, step by step."""
    layer = Mamba(H, 4).double()
    u = torch.randn(1, 20, H, dtype=F64)
    x, gate = (u[0] @ layer.enter.weight.mT).chunk(2, -1)
    z, outputs = torch.zeros(layer.inner, 4, dtype=F64), []
    A = -layer.log_decay.exp()
    step = layer.step
    assert isinstance(step, torch.nn.Linear) and layer.convolution.bias is not None
    for t in range(20):
        window = torch.nn.functional.pad(x[: t + 1], (0, 0, 3, 0))[-4:]
        v = (window.mT * layer.convolution.weight[:, 0]).sum(-1) + layer.convolution.bias
        v = v * v.sigmoid()
        raw, B, C = (layer.select.weight @ v).split([layer.rank, 4, 4])
        delta = (1 + (step.weight @ raw + layer.step_bias).exp()).log()
        z = (delta[:, None] * A).exp() * z + (delta * v)[:, None] * B
        outputs.append((z @ C + layer.D * v) * gate[t] * gate[t].sigmoid())
    expected = torch.stack(outputs) @ layer.leave.weight.mT
    torch.testing.assert_close(layer(u)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["S4", "S4D", "S5", "LRU", "LSSL", "Mamba"])
def test_layers_have_one_dtype_the_default(name: str) -> None:
    """Route: the same layer, made in float32 and cast."""
    torch.set_default_dtype(torch.float64)
    try:
        layer = getattr(models, name)(4)
        u = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
        assert {p.dtype for p in layer.parameters()} == {torch.float64}
        single = layer.float()(u.float())
        torch.testing.assert_close(layer.double()(u).float(), single, rtol=1e-3, atol=1e-3)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_taken_as_inputs_and_refused_as_parameters(dtype: torch.dtype) -> None:
    layer = models.S4D(3, modes=4)
    u = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.testing.assert_close(layer(u), layer(u.float()))
    with pytest.raises(ValueError, match="too few digits"):
        layer.to(dtype)(u)
