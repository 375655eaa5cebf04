from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepssm.core.guides import CombinerStep
from deepssm.inference.guides.combiners import GateCombiner
from deepssm.inference.guides.recurrences.rnn import gru_recurrence, relu_recurrence
from deepssm.ops import products

LAST = torch.tensor([4, 2, -1])
ENDED = torch.arange(5)[:, None] > LAST


@pytest.fixture(params=["loop", "compiled"])
def _route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of running a recursion, whatever its size."""
    monkeypatch.setattr(products, "_MOST_FOR_LOOPS", 0 if request.param == "loop" else 10_000)


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("reverse", [False, True])
def test_layers_equal_those_of_torch_series_by_series(reverse: bool) -> None:
    """Values against `nn.GRU` and `nn.RNN` on each series alone, cut at its end."""
    torch.manual_seed(0)
    x = _numbers(5, 3, 2)
    for net in (torch.nn.GRU(2, 4).double(), torch.nn.RNN(2, 4, nonlinearity="relu").double()):
        inwards, weight, bias, own = net.all_weights[0]
        if isinstance(net, torch.nn.GRU):
            drive = F.linear(x, inwards, bias)
            got = gru_recurrence(drive, weight, own, ENDED, reverse=reverse)
        else:
            drive = F.linear(x, inwards, bias + own)
            got = relu_recurrence(drive, weight, ENDED, reverse=reverse)
        for row, last in enumerate(LAST.tolist()):
            alone = x[: last + 1, row : row + 1]
            if last >= 0:
                read = net(alone.flip(0))[0].flip(0) if reverse else net(alone)[0]
                torch.testing.assert_close(got[: last + 1, row], read[:, 0])
            assert torch.equal(got[last + 1 :, row], torch.zeros_like(got[last + 1 :, row]))


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_the_layers(reverse: bool) -> None:
    """Against finite differences, with series that have ended."""

    def relu(drive: Tensor, weight: Tensor) -> Tensor:
        return relu_recurrence(drive, weight, ENDED, reverse=reverse)

    def gru(drive: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return gru_recurrence(drive, weight, bias, ENDED, reverse=reverse)

    assert torch.autograd.gradcheck(relu, (_numbers(5, 3, 4), _numbers(4, 4, seed=1)))
    gru_parts = _numbers(5, 3, 6), _numbers(6, 2, seed=1), _numbers(6, seed=2)
    assert torch.autograd.gradcheck(gru, gru_parts)


@pytest.mark.usefixtures("_route")
def test_gated_path_is_its_steps_one_by_one() -> None:
    """Values and every gradient, through autograd's own loop over `GateCombiner.forward`."""
    torch.manual_seed(0)
    combiner = GateCombiner(2, 1, 4).double()
    context, start = _numbers(6, 3, 4), _numbers(2, seed=1)
    noise = _numbers(6, 5, 3, 2, seed=2).detach()
    z, rows = start.expand(5, 3, 2), []
    for t in range(6):
        mean, scale = combiner(CombinerStep(z, z, z, None, context[t]))
        z = mean + scale * noise[t]
        rows.append((z, mean, scale))
    expected = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    got = combiner.path(context, start, noise)
    inputs = [context, start, *combiner.parameters()]
    weights = [_numbers(6, 5, 3, 2, seed=s).detach() for s in (3, 4, 5)]
    gradients = []
    for parts in (got, expected):
        total = sum((w * p).sum() for w, p in zip(weights, parts, strict=True))
        gradients.append(torch.autograd.grad(total, inputs))  # type: ignore[arg-type]
    for left, right in zip((*got, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(left, right)
