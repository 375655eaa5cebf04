from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.guides.linearized_guide import LinearizedGuide
from deepssm.inference.guides.smoothing_guide import SmoothingGuide
from deepssm.inference.variational.amortized import Amortized
from deepssm.inference.variational.elbo import GuideProgram
from deepssm.inference.variational.minibatches import Minibatches, evaluation_batch, flatten
from deepssm.inference.variational.svi import SVI
from deepssm.models.deep.deep_markov import DeepMarkov
from deepssm.models.deep.emissions import BernoulliEmission
from deepssm.models.deep.transitions import GatedTransition, ResidualTransition

QUICK = SVI(steps=40, batch_size=8, window=32, hidden=8, report_every=10, kl_warmup=10)


def _wave(time: int = 120, seed: int = 0) -> Series:
    """A noisy sine in awkward units, with gaps."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(time)
    y = 5e3 + 40 * torch.sin(t / 4)[:, None] * torch.tensor([1.0, -2.0])
    y = y + 4 * torch.randn(time, 2, generator=g)
    y[torch.rand(y.shape, generator=g) < 0.1] = torch.nan
    y[40:45] = torch.nan
    return Series(y)


def _model() -> DeepMarkov:
    torch.manual_seed(7)
    return DeepMarkov(2, 3, hidden=8)


def test_two_models_in_one_process_both_train() -> None:
    """Pyro's global store would leave the second as it was, without a word."""
    pyro.clear_param_store()  # other tests use Pyro's own trainer
    series = _wave()
    records, weights = [], []
    for width in (8, 8, 12):
        torch.manual_seed(7)
        model = DeepMarkov(2, 3, hidden=width)
        before = copy.deepcopy(model.state_dict())
        learned = QUICK.fit(model, series, progress=False)
        records.append(learned.history)
        weights.append(model.state_dict())
        assert all(
            not torch.equal(before[name], value)
            for name, value in model.state_dict().items()
            if "net" in name and "weight" in name
        )
    for history in records:
        assert history[-1]["elbo"] > history[0]["elbo"]
    assert not dict(pyro.get_param_store().named_parameters())


def test_same_seed_same_weights() -> None:
    series, weights = _wave(), []
    for _ in range(2):
        model = _model()
        QUICK.fit(model, series, progress=False, generator=torch.Generator().manual_seed(3))
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])


def test_history_is_in_nats_per_step_and_the_best_weights_stay() -> None:
    series = _wave()
    model = _model()
    learned = QUICK.fit(model, series, progress=False)
    elbos = [record["elbo"] for record in learned.history]
    for record in learned.history:
        halves = record["reconstruction"] - record["divergence"]
        assert record["elbo"] == pytest.approx(halves)
    assert [record["step"] for record in learned.history] == [10, 20, 30, 40]
    assert learned.diagnostics["elbo_per_step"] == max(elbos)
    seen = int((~torch.isnan(series.y)).any(-1).sum())
    assert learned.objective == pytest.approx(max(elbos) * seen)
    assert isinstance(learned.method, Amortized)


def test_best_weights_are_copies() -> None:
    """A huge learning rate spoils the last weights; those in place must be the best ones."""
    series = _wave()
    model = _model()
    method = SVI(steps=30, window=32, hidden=8, learning_rate=0.5, report_every=5, clip=1e9)
    learned = method.fit(model, series, progress=False)
    from deepssm.inference.variational.svi import _evaluate

    assert isinstance(learned.method, Amortized)
    trial = evaluation_batch(flatten(series), 4 * method.batch_size, 32)
    assert isinstance(learned.method.guide, torch.nn.Module)
    again = _evaluate(model, learned.method.guide, trial)["elbo"]
    assert again == learned.diagnostics["elbo_per_step"]


def test_frozen_parameters_stay() -> None:
    model = _model()
    frozen = model.transition_net.get_parameter("linear.weight")
    frozen.requires_grad_(False)
    before = frozen.clone()
    QUICK.fit(model, _wave(), progress=False)
    assert torch.equal(frozen, before)


def test_non_finite_losses_are_survived_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepssm.inference.variational import svi

    real, calls = svi.negative_elbo, [0]

    def poisoned(bad: int):  # noqa: ANN202
        def build(*args: object, **kwargs: object):  # noqa: ANN202
            loss = real(*args, **kwargs)  # type: ignore[arg-type]

            class Poison(torch.nn.Module):
                model, guide = loss.model, loss.guide  # type: ignore[attr-defined]

                def forward(self, *inputs: object) -> Tensor:
                    calls[0] += 1
                    value = loss(*inputs)
                    return value * math.nan if 15 < calls[0] <= 15 + bad else value

            return Poison()

        return build

    monkeypatch.setattr(svi, "negative_elbo", poisoned(3))
    learned = QUICK.fit(_model(), _wave(), progress=False)
    assert len(learned.warnings) == 3
    assert all("non-finite in the gradient" in warning for warning in learned.warnings)
    calls[0] = 0
    monkeypatch.setattr(svi, "negative_elbo", poisoned(100))
    model = _model()
    with pytest.raises(FloatingPointError, match="non-finite at step 20, in the gradient"):
        QUICK.fit(model, _wave(), progress=False)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_model_that_breaks_in_training_is_rescued(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN weights must come out as a non-finite loss, whatever the guide computes from them."""
    from deepssm.inference.variational import svi

    model, real, calls = _model(), svi.negative_elbo, [0]
    net = model.transition_net
    assert isinstance(net, ResidualTransition)

    def build(*args: object, **kwargs: object) -> Callable[..., Tensor]:
        loss = real(*args, **kwargs)  # type: ignore[arg-type]

        class Breaking(torch.nn.Module):
            model, guide = loss.model, loss.guide  # type: ignore[attr-defined]

            def forward(self, *inputs: object) -> Tensor:
                calls[0] += 1
                if calls[0] == 15:
                    with torch.no_grad():
                        net.raw_scale.fill_(torch.nan)
                return loss(*inputs)

        return Breaking()

    monkeypatch.setattr(svi, "negative_elbo", build)
    learned = QUICK.fit(model, _wave(), progress=False)
    assert "Step 14: the loss became non-finite in site `z`" in learned.warnings[0]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_nothing_observed_is_an_error() -> None:
    with pytest.raises(ValueError, match="`y` holds no observation"):
        QUICK.fit(_model(), Series(torch.full((10, 2), torch.nan)), progress=False)


def test_nothing_to_learn_is_an_error() -> None:
    model = _model().requires_grad_(False)
    series = _wave()
    guide = LinearizedGuide()
    with pytest.raises(ValueError, match="no free parameter"):
        SVI(guide, steps=2).fit(model, series, progress=False)


@pytest.mark.parametrize(("size", "value"), [("obs_dim", 0), ("state_dim", -1)])
def test_sizes_are_checked(size: str, value: int) -> None:
    sizes: dict[str, int] = {"obs_dim": 1, "state_dim": 1, size: value}
    with pytest.raises(ValueError, match=f"`{size}` must be at least 1"):
        DeepMarkov(sizes["obs_dim"], sizes["state_dim"])


def test_discrete_transitions_refuse_time_steps() -> None:
    with pytest.raises(ValueError, match="`dt` was given, but GatedTransition"):
        GatedTransition(3).forward(torch.zeros(3), dt=torch.tensor(0.5))


def test_irregular_steps_train_and_forecast() -> None:
    series = _wave()
    dt = torch.rand(120) + 0.5
    model = DeepMarkov(2, 3, transition=ResidualTransition(3, hidden=8), hidden=8)
    learned = QUICK.fit(model, Series(series.y, None, dt), progress=False)
    future = Series(torch.cat([series.y, torch.full((4, 2), torch.nan)]), None, torch.ones(124))
    assert torch.isfinite(learned.method.forecast(model, future, 4).mean).all()


def test_binary_batches_train_and_every_result_has_its_shape() -> None:
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(5, 20, 3, generator=g) < 0.3).float()
    y[2, 12:] = torch.nan
    u = torch.randn(5, 20, 1, generator=g)
    model = DeepMarkov(3, 2, input_dim=1, emission=BernoulliEmission(2, 3, 1, hidden=8), hidden=8)
    series = Series(y, u)
    method = QUICK.fit(model, series, progress=False).method
    filtered, smoothed = method.filter(model, series), method.smooth(model, series)
    assert filtered.mean.shape == smoothed.mean.shape == (5, 20, 2)
    assert filtered.predicted_cov.shape == smoothed.cross_cov.shape == (5, 20, 2, 2)
    assert method.log_likelihood(model, series).shape == (5, 20)
    assert torch.equal(filtered.log_likelihood[2, 12:], torch.zeros(8))
    assert not filtered.ill_conditioned.any()
    assert method.sample_posterior(model, series, 4).shape == (4, 5, 20, 2)
    future = Series(torch.cat([y, torch.full((5, 6, 3), torch.nan)], 1), torch.zeros(5, 26, 1))
    forecast = method.forecast(model, future, 6, num_samples=50)
    assert forecast.samples is not None
    assert forecast.samples.shape == (50, 5, 6, 3)
    assert set(forecast.samples.unique().tolist()) == {0.0, 1.0}


def test_generators_decide_every_draw() -> None:
    series = _wave()
    model = _model()
    method = QUICK.fit(model, series, progress=False).method
    future = Series(torch.cat([series.y, torch.full((4, 2), torch.nan)]))
    draws = [
        method.forecast(model, future, 4, 5, torch.Generator().manual_seed(seed)).samples
        for seed in (1, 1, 2)
    ]
    assert draws[0] is not None
    assert draws[1] is not None
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])  # type: ignore[arg-type]
    first, second = method.log_likelihood(model, series), method.log_likelihood(model, series)
    assert torch.equal(first, second)


@pytest.mark.parametrize("module_local", [True, False])
def test_users_own_pyro_works(module_local: bool) -> None:
    """`Trace_ELBO`, `Predictive` with the guide, and plain `SVI` under the global store."""
    series = flatten(_wave(30))
    with pyro.settings.context(module_local_params=module_local):
        model = _model()
    guide = SmoothingGuide(2, 3, hidden=8)
    program = GuideProgram(model, guide)
    pyro.clear_param_store()
    if module_local:
        with pyro.settings.context(module_local_params=True):
            loss = Trace_ELBO()(model, program)(series.y)
            loss.backward()
            posterior = Predictive(model, guide=program, num_samples=3, parallel=True)(series.y)
        assert posterior["y"].shape[0] == 3
        assert model.initial_mean.grad is not None
        return

    def guide_program(y: Tensor) -> None:
        pyro.module("guide", guide)
        program(y)

    optimizer = Adam({"lr": 1e-3})
    svi = PyroSVI(model, guide_program, optimizer, TraceMeanField_ELBO())
    weight = guide.get_parameter("projection.weight")
    before = weight.clone()
    assert math.isfinite(float(svi.step(series.y)))  # type: ignore[arg-type]
    assert not torch.equal(before, weight)
    pyro.clear_param_store()


def test_minibatches_cover_an_epoch_once_and_cut_windows() -> None:
    y = torch.arange(7.0)[:, None, None].expand(7, 10, 1)
    batches = Minibatches(Series(y), 3, None, torch.Generator().manual_seed(0))
    first = torch.cat([next(batches).y[:, 0, 0] for _ in range(3)])
    assert sorted(first.tolist()) == list(range(7))
    ramp = torch.arange(50.0)[None, :, None]
    window = next(Minibatches(Series(ramp), 4, 8))
    assert window.y.shape == (4, 8, 1)
    assert (window.y.diff(dim=1) == 1).all()
    trial = evaluation_batch(Series(ramp), 64, 8)
    assert trial.y.unique().numel() == 50
