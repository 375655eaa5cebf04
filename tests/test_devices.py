"""Models on a device that is not the CPU, pretended: no mixture of devices, the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference import Extended, Kalman, MaximumLikelihood
from tests import oracles
from tests.given import Given, leaves_of, rebuilt
from tests.pretend_cuda import Pretend, PretendMode, pretend, pretending

F64 = torch.float64


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretending(monkeypatch), PretendMode():
        yield


def moved(module: Any) -> Any:  # noqa: ANN401
    """What `module.to("cuda")` does."""
    return module._apply(pretend)


def close(actual: Tensor, expected: Tensor) -> None:
    assert isinstance(actual, Pretend)
    torch.testing.assert_close(actual.held, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["sequential", "scan", "stationary"])
@pytest.mark.parametrize("diffuse", [0, 1])
def test_exact_inference(elsewhere: None, backend: Any, diffuse: int) -> None:  # noqa: ANN401
    parameters = oracles.random_linear_gaussian(3, 2, 200, 1, diffuse=diffuse)
    y = torch.randn(2, 200, 2, dtype=F64)
    y[0, 150, 0] = torch.nan
    leaves = [x.requires_grad_() for x in leaves_of(parameters, y)]
    given, there = [Given(rebuilt(x)) for x in (leaves, [pretend(x) for x in leaves])]
    if diffuse:
        directions = parameters.initial.diffuse
        assert directions is not None
        given.given, there.given = (
            model.given._replace(initial=model.given.initial._replace(diffuse=where))
            for model, where in ((given, directions), (there, pretend(directions)))
        )
    data, method = leaves_of(there.given, pretend(leaves[0])), Kalman(backend)
    here = Series(leaves[0])
    found, expected = method.smooth(there, Series(data[0])), method.smooth(given, here)
    close(found.mean.detach(), expected.mean.detach())
    close(found.cov.detach(), expected.cov.detach())
    ll = method.log_likelihood(there, Series(data[0])), method.log_likelihood(given, here)
    grads = [torch.autograd.grad(x.sum(), z) for x, z in zip(ll, (data, leaves), strict=True)]
    for actual, reference in zip(*grads, strict=True):
        close(actual, reference)


def test_learning_and_its_summary(elsewhere: None) -> None:
    """Standard errors once mixed devices."""

    def model() -> ds.models.LinearGaussian:
        A = PyroParam(torch.tensor([[0.5]], dtype=F64))
        return ds.models.LinearGaussian(A, [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]])

    y = torch.randn(40, 1, dtype=F64).cumsum(0)
    there, here = moved(model()), model()
    fits = [
        ds.fit(m, x, method=MaximumLikelihood(), progress=False)
        for m, x in ((there, pretend(y)), (here, y))
    ]
    assert fits[0].summary() == fits[1].summary()


def test_moments_of_a_nonlinear_model(elsewhere: None) -> None:
    one = torch.eye(1, dtype=F64)
    model = ds.models.NonlinearGaussian(
        transition=lambda z, u, dt: z.sin(), emission=lambda z, u: z, Q=one, R=one,
        m0=one[0], P0=one,
    )  # fmt: skip
    y = torch.randn(12, 1, dtype=F64)
    expected = ds.smooth(model, y, method=Extended()).mean
    close(ds.smooth(moved(model), pretend(y), method=Extended()).mean, expected)


@pytest.mark.parametrize("layer", [ds.models.S4, ds.models.S4D, ds.models.S5, ds.models.LRU])
def test_layers(elsewhere: None, layer: type[nn.Module]) -> None:
    here, x = layer(4), torch.randn(2, 30, 4)
    expected = here(x)
    found = moved(here)(pretend(x))
    close(found.detach(), expected.detach())


def test_a_mixture_of_devices_is_seen(elsewhere: None) -> None:
    with pytest.raises(RuntimeError, match="both cuda:0 and cpu"):
        _ = pretend(torch.ones(2)) + torch.ones(2)
    with pytest.raises(TypeError, match="numpy"):
        pretend(torch.ones(2)).numpy()
