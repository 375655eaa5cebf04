from __future__ import annotations

import copy

import pytest
import torch

from deepssm.core.model import Series
from deepssm.inference import LinearizedGuide
from deepssm.inference.variational.svi import SVI
from deepssm.inference.variational.weight_decay import parameter_groups
from deepssm.inference.variational.weight_prior import WeightPrior
from deepssm.models.deep.deep_markov import DeepMarkov


def _case() -> tuple[DeepMarkov, Series]:
    torch.manual_seed(0)
    y = torch.randn(2, 30, 2).cumsum(-2)
    y[0, 20:], y[1, 3, 0] = torch.nan, torch.nan
    return DeepMarkov(2, 2, input_dim=1, hidden=4), Series(y, torch.zeros(2, 30, 1))


def test_the_prior_is_a_decay_by_observed_steps() -> None:
    """50 steps were seen: the default trains as the decay `1 / (0.4^2 50)` does, bit for bit."""
    trained = []
    for decay in (None, 1 / (0.16 * 50), 0.0):
        model, series = _case()
        method = SVI(LinearizedGuide(), steps=6, weight_decay=decay)
        method.fit(model, series, progress=False, generator=torch.Generator().manual_seed(1))
        trained.append(model.state_dict())
    default, same, none = trained
    assert all(torch.equal(default[name], same[name]) for name in default)
    # The input is always 0, so that the data say nothing about its weights.
    column = "transition_net.layer.weight"
    before = _case()[0].state_dict()[column][:, 2]
    assert torch.equal(none[column][:, 2], before)
    assert (default[column][:, 2].abs() < before.abs()).all()


def test_only_what_belongs_to_the_model_has_its_prior() -> None:
    model, series = _case()
    other, loss = torch.nn.Linear(2, 2), torch.nn.Identity()
    parameters = [*model.parameters(), *other.parameters()]
    own, rest = parameter_groups(loss, model, parameters, series, None)
    assert own["weight_decay"] == pytest.approx(1 / (0.16 * 50)) and rest["weight_decay"] == 0.0
    assert [*own["params"], *rest["params"]] == parameters, (
        "a checkpoint counts them in this order"
    )
    (everything,) = parameter_groups(loss, model, parameters, series, 0.1)
    assert everything == {"params": parameters, "weight_decay": 0.1}


@pytest.mark.parametrize("who", ["physics", "random weights"])
def test_who_has_no_prior_or_pays_for_it_is_left_alone(who: str) -> None:
    model, series = _case()
    loss: torch.nn.Module = torch.nn.Identity()
    if who == "physics":
        model = copy.deepcopy(model)
        model.prior_scale = None
    else:
        loss = WeightPrior()(model, LinearizedGuide())
    groups = parameter_groups(loss, model, list(model.parameters()), series, None)
    assert [group["weight_decay"] for group in groups] == [0.0]
