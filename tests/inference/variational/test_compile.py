"""Compiled and recorded training equals plain training, and leaves no trace behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepssm.core.model import Series
from deepssm.inference.guides.combiners import GateCombiner
from deepssm.inference.guides.recurrences.cuda_graph import Replay
from deepssm.inference.guides.smoothing_guide import SmoothingGuide
from deepssm.inference.variational import compile as module
from deepssm.inference.variational.compile import check_compiler, compiled_parts
from deepssm.inference.variational.elbo import negative_elbo
from deepssm.inference.variational.svi import SVI
from deepssm.models import GatedTransition
from deepssm.models.deep.deep_markov import DeepMarkov
from deepssm.ops import products

# What the compiler itself is warned of.
_COMPILER = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf", "ignore:.torch.jit.script"
)


def _parts() -> tuple[DeepMarkov, SmoothingGuide]:
    torch.manual_seed(7)
    model = DeepMarkov(2, 3, input_dim=1, transition=GatedTransition(3, 1, 8), hidden=8)
    return model, SmoothingGuide(2, 3, 1, hidden=8, combiner=GateCombiner(3, 2, 8))


def _series(time: int = 12, seed: int = 0) -> Series:
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(4, time, 2, generator=g).cumsum(1)
    y[torch.rand(y.shape, generator=g) < 0.1] = torch.nan
    y[1, time - 3 :] = torch.nan
    return Series(y, torch.randn(4, time, 1, generator=g))


def _gradients(model: DeepMarkov, guide: SmoothingGuide, time: int) -> list[Tensor]:
    loss, y = negative_elbo(model, guide), _series(time, time)
    torch.manual_seed(time)
    parameters = [*model.parameters(), *guide.parameters()]
    found = loss(*y)
    return [found, *torch.autograd.grad(found, parameters)]


@pytest.mark.slow
@_COMPILER
def test_any_length_is_compiled_once() -> None:
    """Values and gradients; dynamo runs, its graphs by plain torch, so no C++ compiler is used."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model, guide = _parts()
    lengths = (9, 12, 5, 17, 30)
    plain = [_gradients(model, guide, time) for time in lengths]
    names = list(nn.ModuleList([model, guide]).state_dict())
    with compiled_parts(model, guide, backend=backend):
        found = [_gradients(model, guide, time) for time in lengths[:1]]
        count = len(graphs)
        found += [_gradients(model, guide, time) for time in lengths[1:]]
        assert list(nn.ModuleList([model, guide]).state_dict()) == names
        with torch.no_grad():
            model.emission_net(torch.zeros(2, 3), torch.zeros(2, 1))
    assert count == len(graphs) == 3  # transition, emission, reader
    for expected, got in zip(plain, found, strict=True):
        torch.testing.assert_close(got, expected)
    assert all(m._compiled_call_impl is None for m in (*model.modules(), *guide.modules()))


@pytest.mark.parametrize("loop", [True, False])
def test_recorded_recursions_are_the_recursions(
    loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a recording but CUDA's own part: here to play it back is to run it again."""
    if loop:
        monkeypatch.setattr(products, "_MOST_FOR_LOOPS", 0)
    records: list[Callable[[], None]] = []

    def record(run: Callable[[], None]) -> Callable[[], None]:
        run()  # CUDA's way warms up, which leaves anything in the memory
        records.append(run)
        return run

    model, guide = _parts()
    assert isinstance(guide.combiner, GateCombiner)
    lengths = (9, 12, 9, 12, 5, 9)
    plain = [_gradients(model, guide, time) for time in lengths]
    guide.combiner.run_loops = Replay(record)
    found = [_gradients(model, guide, time) for time in lengths]
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    assert len(records) == 6  # forwards and backwards of three lengths
    copied = copy.deepcopy(guide)
    torch.testing.assert_close(_gradients(model, copied, 9), plain[0], rtol=0, atol=0)
    assert len(records) == 8


def test_the_longest_unused_recording_goes() -> None:
    made: list[int] = []

    def double(x: Tensor, out: Tensor) -> None:
        torch.mul(x, 2, out=out)

    def record(run: Callable[[], None]) -> Callable[[], None]:
        made.append(1)
        return run

    replay = Replay(record, most=2)
    for size in (1, 2, 1, 3, 1, 2):  # 3 drives out 2, which comes back
        x, out = torch.rand(size), torch.zeros(size)
        replay(double, (x, out), 1)
        assert torch.equal(out, 2 * x)
    assert len(made) == 4


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    method = SVI(_parts()[1], steps=1, compile=True)
    with pytest.raises(ValueError, match=r"`compile=True` needs a C\+\+ compiler \(no-such-comp"):
        method.fit(_parts()[0], _series(), progress=False)
    monkeypatch.setattr(module.shutil, "which", lambda _: "/usr/bin/g++")
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _: "/nowhere")
    with pytest.raises(ValueError, match="needs Python's headers"):
        check_compiler(cuda=False)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="needs the package 'triton'"):
        check_compiler(cuda=True)


def test_guides_that_differentiate_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match="`compile=True` needs a guide that does not different"):
        SVI(steps=1, compile=True).fit(_parts()[0], _series(), progress=False)


@pytest.mark.slow
@_COMPILER
def test_compiled_training_is_plain_training(tmp_path: Any) -> None:  # noqa: ANN401
    """By inductor; a plain training goes on from a compiled one's checkpoint."""
    try:
        check_compiler(cuda=False)
    except ValueError as error:
        pytest.skip(str(error))
    found = []
    for compile in (False, True):
        model, guide = _parts()
        folder = tmp_path / str(compile)
        plan = SVI(guide, steps=12, batch_size=2, report_every=4, window=None, folder=folder)
        first = SVI(**{**vars(plan), "compile": compile})
        generator = torch.Generator().manual_seed(3)
        learned = first.fit(model, _series(), progress=False, generator=generator)
        found.append([*model.state_dict().values(), *guide.state_dict().values()])
        assert [record["step"] for record in learned.history] == [4, 8, 12]
        again = SVI(**{**vars(plan), "resume": True})
        assert again.fit(model, _series(), progress=False).history == learned.history
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_recordings_on_a_gpu() -> None:
    """Never run so far: no GPU was there when it was written."""
    model, guide = _parts()
    model.cuda()
    guide.cuda()
    combiner, series = guide.combiner, _series()
    assert isinstance(combiner, GateCombiner) and series.u is not None
    series = Series(series.y.cuda(), series.u.cuda())
    parameters = [*model.parameters(), *guide.parameters()]
    found = []
    for run in (combiner.run_loops, Replay()):
        combiner.run_loops = run
        for seed in (1, 2):
            torch.manual_seed(seed)
            loss = negative_elbo(model, guide)(*series)
            found.append([loss, *torch.autograd.grad(loss, parameters)])
    torch.testing.assert_close(found[2:], found[:2])
