"""Training that stops, goes on, tells what it does, and runs in several processes."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroSample
from torch import Tensor

import deepssm as ds
from deepssm.core.methods import Learned
from deepssm.core.model import Series
from deepssm.inference.guides.chain_guide import ChainGuide
from deepssm.inference.guides.conjugate_guide import ConjugateGuide
from deepssm.inference.guides.flow_guide import FlowGuide
from deepssm.inference.guides.smoothing_guide import SmoothingGuide
from deepssm.inference.variational.amortized import Amortized
from deepssm.inference.variational.elbo import negative_elbo
from deepssm.inference.variational.minibatches import Minibatches
from deepssm.inference.variational.svi import SVI
from deepssm.inference.variational.tensorboard import TensorBoard
from deepssm.io import checkpoint
from deepssm.models import (
    BernoulliEmission,
    CategoricalEmission,
    GatedTransition,
    ImageEmission,
    PoissonEmission,
)
from deepssm.models.deep.deep_markov import DeepMarkov


def _series(count: int = 5, time: int = 12) -> Series:
    g = torch.Generator().manual_seed(0)
    y = torch.randn(count, time, 2, generator=g).cumsum(1)
    y[torch.rand(y.shape, generator=g) < 0.1] = torch.nan
    y[1, 8:] = torch.nan
    return Series(y)


def _fit(folder: Path | None, **changes: object) -> tuple[dict[str, Tensor], Learned]:
    torch.manual_seed(7)
    model = DeepMarkov(2, 3, hidden=8)
    guide = SmoothingGuide(2, 3, hidden=8)
    plan = SVI(guide, steps=20, batch_size=2, report_every=4, folder=folder, window=None)
    method = replace(plan, **changes)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    learned = method.fit(model, _series(), progress=False, generator=generator)
    assert isinstance(learned.method, Amortized)
    both = {"model": model, "guide": learned.method.guide}
    return {f"{k}.{n}": x for k, m in both.items() for n, x in m.state_dict().items()}, learned


def _stop_at(step: int) -> object:
    def callback(record: Mapping[str, float]) -> None:
        if record["step"] == step:
            signal.raise_signal(signal.SIGINT)

    return callback


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("bucketed", [False, True])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, bucketed: bool
) -> None:
    """The stop falls inside an epoch; optimiser, batches, random state and history go on."""
    whole, straight = _fit(None, bucketed=bucketed)
    folder = tmp_path / "run"
    _, first = _fit(folder, bucketed=bucketed, callbacks=(_stop_at(8),))
    assert [record["step"] for record in first.history] == [4, 8]
    assert "interrupted" in first.warnings[0]
    assert str(folder / "training.safetensors") in first.warnings[0]
    resumed, second = _fit(folder, bucketed=bucketed, resume=True)
    assert second.history == straight.history
    assert second.objective == straight.objective
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == straight.history


def test_periodic_checkpoints_survive_a_death(tmp_path: Path) -> None:
    """A process that dies without a word goes on from the last periodic checkpoint."""

    def die(record: Mapping[str, float]) -> None:
        if record["step"] == 16:
            raise RuntimeError("killed")

    whole, _ = _fit(None)
    with pytest.raises(RuntimeError, match="killed"):
        _fit(tmp_path, checkpoint_every=6, callbacks=(die,))
    resumed, _ = _fit(tmp_path, resume=True)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    whole, first = _fit(tmp_path)
    again, second = _fit(tmp_path, resume=True)
    assert second.history == first.history
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_metrics_are_there_while_training_runs(tmp_path: Path) -> None:
    counts: list[int] = []

    def look(record: Mapping[str, float]) -> None:
        counts.append(len((tmp_path / "metrics.jsonl").read_text().splitlines()))

    _fit(tmp_path, callbacks=(look,))
    assert counts == [1, 2, 3, 4, 5]


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    _fit(tmp_path)
    with pytest.raises(ValueError, match="`resume`: the checkpoint holds another model"):
        _fit(tmp_path, guide=SmoothingGuide(2, 3, hidden=9), resume=True)
    with pytest.raises(ValueError, match="`resume`: .* batches of 2, now there are 1 and 3"):
        _fit(tmp_path, batch_size=3, resume=True)
    with pytest.raises(ValueError, match="`resume` needs `folder`"):
        _fit(None, resume=True)


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    class Writer:
        curves: list[tuple[str, float, int]] = []

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.curves.append((tag, scalar_value, global_step))

        def flush(self) -> None:
            pass

    _, learned = _fit(None, callbacks=(TensorBoard(writer=Writer()),))
    elbo = [(value, step) for tag, value, step in Writer.curves if tag == "training/elbo"]
    assert elbo == [(record["elbo"], record["step"]) for record in learned.history]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    """The event file itself, where the optional package is installed."""
    pytest.importorskip("tensorboard", reason="optional: pip install 'deepssm[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-not-found]
        EventAccumulator,
    )

    _, learned = _fit(None, callbacks=(TensorBoard(tmp_path),))
    found = EventAccumulator(str(tmp_path)).Reload()
    names = {f"training/{name}" for name in learned.history[0] if name != "step"}
    assert set(found.Tags()["scalars"]) == names
    for name in names:
        read = [(event.step, event.value) for event in found.Scalars(name)]
        wrote = [(r["step"], r[name.removeprefix("training/")]) for r in learned.history]
        assert read == [(step, pytest.approx(value, rel=1e-6)) for step, value in wrote]


def test_tensorboard_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'deepssm\[tensorboard\]'"):
        TensorBoard("runs")


def test_half_precision_trains_to_nearly_the_same_bound() -> None:
    _, full = _fit(None)
    _, half = _fit(None, precision="bfloat16")
    assert half.history[-1]["elbo"] != full.history[-1]["elbo"]
    assert half.history[-1]["elbo"] == pytest.approx(full.history[-1]["elbo"], abs=0.2)


def test_buckets_hold_series_of_like_length_and_all_of_them() -> None:
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 40, (23,), generator=g)
    y = torch.arange(23.0)[:, None, None].repeat(1, 40, 1)
    y[torch.arange(40) >= lengths[:, None]] = torch.nan
    padded: dict[bool, int] = {}
    for bucketed in (False, True):
        batches = Minibatches(Series(y), 4, None, g, bucketed=bucketed)
        for _ in range(2):
            epoch = [next(batches).y for _ in range(6)]
            rows = sorted(int(row[0, 0]) for batch in epoch for row in batch)
            assert rows == list(range(23))
        padded[bucketed] = sum(batch.shape[0] * batch.shape[1] for batch in epoch)
    assert padded[True] < 1.25 * int(lengths.sum()) < padded[False]


def test_processes_that_do_not_know_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="`torchrun` started 2 processes that do not know"):
        _fit(None)


def _train_in_a_group(rank: int, store: str, how: str) -> None:
    os.environ["WORLD_SIZE"] = "2"
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # different starts, on purpose: the first process's must rule
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hidden = 8 + int(how == "unequal" and rank == 1)
    model, guide = DeepMarkov(2, 3, hidden=hidden), SmoothingGuide(2, 3, hidden=8)
    series = _series()
    own = Series(series.y[:3] if rank == 0 else series.y[3:])
    method = SVI(guide, steps=12, batch_size=2, report_every=4, folder=f"{store}.run")
    if how == "stopped":  # in the first process alone: only it has callbacks
        method = replace(method, callbacks=(_stop_at(8),))  # type: ignore[arg-type]
    try:
        learned = method.fit(model, own, progress=False)
        state = torch.cat(
            [p.detach().flatten() for p in (*model.parameters(), *guide.parameters())]
        )
        torch.save((state, learned.history), f"{store}.{rank}")
    except ValueError as error:
        torch.save(str(error), f"{store}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "stopped", "unequal"])
def test_two_processes_end_with_equal_parameters(tmp_path: Path, how: str) -> None:
    """Each has its own series and its own first weights; unequal models are refused.

    Ctrl-C in one process stops both after the same step.
    """
    store = str(tmp_path / "store")
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=_train_in_a_group, args=(r, store, how)) for r in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    found = [torch.load(f"{store}.{rank}") for rank in (0, 1)]
    if how == "unequal":
        assert all("must have the same learnt parameters" in text for text in found)
        return
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    names = ("training.safetensors", "training-1.safetensors")
    steps = [checkpoint.load(Path(f"{store}.run") / name).config["step"] for name in names]
    assert steps == ([8, 8] if how == "stopped" else [12, 12])


def test_averaged_weights_are_the_mean_over_the_steps(tmp_path: Path) -> None:
    """By hand from the weights after each step; a training cut in two finds the same."""
    first, seen = SmoothingGuide(2, 3, hidden=8), []
    guide = copy.deepcopy(first)
    mean = guide.get_parameter("combiner.state.weight").detach().clone()
    look = lambda _: seen.append(guide.get_parameter("combiner.state.weight").detach().clone())  # noqa: E731
    _fit(None, guide=guide, report_every=1, callbacks=(look,))
    assert len(seen) == 20
    for step, weight in enumerate(seen):
        share = 1 - min(0.7, (1 + step) / (10 + step))
        mean = (1 - share) * mean + share * weight
    plan = {"averaging": 0.7, "report_every": 99}
    kept, _ = _fit(None, guide=copy.deepcopy(first), **plan)
    torch.testing.assert_close(kept["guide.combiner.state.weight"], mean, rtol=1e-5, atol=1e-7)
    assert not torch.equal(mean, seen[-1])

    def die(record: Mapping[str, float]) -> None:
        raise RuntimeError("killed")

    plan |= {"report_every": 10, "checkpoint_every": 5}
    whole, _ = _fit(None, guide=copy.deepcopy(first), **plan)
    with pytest.raises(RuntimeError, match="killed"):
        _fit(tmp_path, guide=copy.deepcopy(first), **plan, callbacks=(die,))
    resumed, _ = _fit(tmp_path, guide=copy.deepcopy(first), **plan, resume=True)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_best_weights_are_those_of_the_validation_series() -> None:
    """Kept back: two series that say the opposite of the training data after a while."""
    against = Series(_series().y.flip(-1) * 3)
    learned = [_fit(None, steps=60, validation=s)[1] for s in (None, against)]
    own, other = ([record["elbo"] for record in run.history] for run in learned)
    assert learned[1].diagnostics["elbo_per_step"] == max(other)
    assert learned[0].diagnostics["elbo_per_step"] == max(own)
    assert own != other


def test_training_stops_when_the_bound_no_longer_rises() -> None:
    """Two evaluations after the best one, which a run without patience finds too."""
    against = Series(_series().y.flip(-1) * 3)
    plan = {"steps": 48, "validation": against, "learning_rate": 0.1}
    whole, stopped = (_fit(None, **plan, patience=p)[1].history for p in (None, 2))
    assert len(whole) == 12 and 3 <= len(stopped) < 12
    bounds = [record["elbo"] for record in stopped]
    assert bounds.index(max(bounds)) == len(bounds) - 3
    assert stopped == whole[: len(stopped)]


def test_the_divergence_warms_up_in_updates_and_gradients_are_clipped() -> None:
    """What the loss is called with at each step; the last step's gradients are still there."""
    weights: list[float] = []

    class Loss(torch.nn.Module):
        def __init__(
            self, model: DeepMarkov, guide: SmoothingGuide, *, num_particles: int
        ) -> None:
            super().__init__()
            self.elbo = negative_elbo(model, guide, num_particles=num_particles)

        def forward(self, *parts: Any) -> Tensor:  # noqa: ANN401
            weights.append(parts[3])
            return 1e3 * self.elbo(*parts)

    guide = SmoothingGuide(2, 3, hidden=8)
    plan = {"kl_start": 0.01, "kl_warmup": 10, "clip": 0.5, "objective": Loss, "weight_decay": 0.0}
    _fit(None, guide=guide, **plan)
    assert weights == [pytest.approx(min(0.01 + 0.099 * k, 1.0)) for k in range(20)]
    norms = [p.grad.norm() for p in guide.parameters() if p.grad is not None]
    assert 0.1 < float(torch.stack(norms).norm()) <= 0.5 * (1 + 1e-5)


def test_training_data_are_no_validation() -> None:
    """The same series in another order or with other padding, and one that is new among them."""
    data = _series()
    longer = torch.cat([data.y.flip(0), torch.full_like(data.y[:, :2], torch.nan)], dim=1)
    with pytest.raises(ValueError, match="`validation` holds only series that are trained on"):
        _fit(None, steps=1, validation=Series(longer))
    with pytest.raises(ValueError, match="`validation` holds no observation"):
        _fit(None, steps=1, validation=Series(torch.full_like(data.y, torch.nan)))
    _fit(None, steps=1, validation=Series(torch.cat([data.y, data.y[:1] + 1.0])))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number, 1 or more, got 0"),
        ({"steps": 2.5}, "`steps` must be a whole number"),
        ({"window": 1}, "`window` must be a whole number, 2 or more"),
        ({"overshoot": -1}, "`overshoot` must be a whole number, 0 or more"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"averaging": 1.0}, "`averaging` in"),
        ({"precision": "half"}, "`precision` is 'full' or 'bfloat16', got 'half'"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SVI(**options)


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        (
            lambda: SmoothingGuide(3, 2),
            "`guide` was made for obs_dim=3, but the model has obs_dim=2",
        ),
        (
            lambda: ChainGuide(2, 4),
            "build it as `ChainGuide.obs_dim=2, state_dim=2, input_dim=0.`",
        ),
        (lambda: FlowGuide(SmoothingGuide(2, 2, 1), 2), "made for input_dim=1"),
        (
            lambda: ConjugateGuide(2, 2, own_dynamics=True).double(),
            "`guide` computes in torch.float64",
        ),
    ],
)
def test_guides_of_other_models_are_refused(
    guide: Callable[[], torch.nn.Module], words: str
) -> None:
    y = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=words):
        ds.fit(DeepMarkov(2, 2), y, method=SVI(guide(), steps=1), progress=False)


def _counts(rate: float = 3.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.poisson(torch.full((2, 5, 2), rate), generator=g)


def _one_hot_in_part() -> torch.Tensor:
    y = torch.eye(2)[torch.tensor([[0, 1, 1], [1, 0, 0]])]
    y[0, 1, 0] = torch.nan
    return y


@pytest.mark.parametrize(
    ("emission", "y", "words"),
    [
        (PoissonEmission(2, 2), _counts() + 0.5, r"`y` holds .*\.5, which the model's emission"),
        (BernoulliEmission(2, 2), _counts(), "`y` holds [2-9]"),
        (CategoricalEmission(2, 2), _counts(), "`y` holds "),
        (CategoricalEmission(2, 2), _one_hot_in_part(), "`y` has steps observed in part"),
        (ImageEmission(2, 4, 4), 255 * torch.rand(2, 5, 16), "divide images of 0 to 255 by 255"),
    ],
    ids=["counts", "bits", "categories", "in part", "images"],
)
def test_data_that_a_model_cannot_emit_are_refused(
    emission: torch.nn.Module, y: torch.Tensor, words: str
) -> None:
    model = DeepMarkov(y.shape[-1], 2, emission=emission)
    with pytest.raises(ValueError, match=words) as caught:
        ds.fit(model, y, method=SVI(steps=1), progress=False)
    assert "Trace Shapes" not in str(caught.value)


def test_models_that_a_guide_cannot_learn_are_refused() -> None:
    model = DeepMarkov(2, 2)
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    model.initial_mean = PyroSample(normal)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"random parameters \(initial_mean\)"):
        ds.fit(model, _counts(), method=SVI(steps=1), progress=False)
    with pytest.raises(ValueError, match="GatedTransition is a discrete step") as caught:
        gated = DeepMarkov(2, 2, transition=GatedTransition(2))
        ds.fit(gated, _counts(), dt=0.5, method=SVI(steps=1), progress=False)
    assert "Trace Shapes" not in str(caught.value)
