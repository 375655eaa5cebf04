from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.api.validation import as_series
from deepssm.core.model import Series, StateSpaceModel
from deepssm.interop import Draws, loo, to_datatree
from deepssm.interop.arviz import elpd
from deepssm.interop.labelled import Pointwise


def _model(noise: float = 1.0) -> ds.models.LinearGaussian:
    eye = torch.eye(1, dtype=torch.float64)
    R = PyroParam(noise * eye, constraints.positive_definite)
    return ds.models.LinearGaussian(eye, eye, eye, R, P0=eye)


def _series() -> Series:
    generator = torch.Generator().manual_seed(5)
    shocks = torch.randn(2, 30, 1, generator=generator, dtype=torch.float64)
    y = shocks[0].cumsum(0) + shocks[1]
    y[11] = float("nan")
    return as_series(_model(), y)


def _draws(chains: int = 2, draws: int = 3) -> Draws:
    """Draws of the noise variance from its posterior under a flat prior on a grid."""
    series, grid = _series(), torch.linspace(0.2, 3, 60, dtype=torch.float64)
    total = torch.stack([ds.log_likelihood(_model(r.item()), series.y).sum() for r in grid])
    generator = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(
        total.detach().softmax(0), chains * draws, replacement=True, generator=generator
    )
    return Draws(_model(), series, {"R": grid[chosen].reshape(chains, draws, 1, 1)})


@pytest.mark.parametrize("kind", ["one_step", "leave_one_out"])
def test_each_draw_is_scored_by_a_model_with_its_parameters(kind: Pointwise) -> None:
    draws = _draws()
    found = draws.pointwise(kind)
    assert found.shape == (2, 3, 30)
    for chain in range(2):
        for draw in range(3):
            model = _model(draws.parameters["R"][chain, draw].item())
            y = draws.series.y
            if kind == "one_step":
                expected = ds.log_likelihood(model, y)
            else:
                expected = ev.leave_one_out(model, draws.series).log_density
            torch.testing.assert_close(found[chain, draw], expected)
    assert draws.model.R.item() == pytest.approx(1.0)


def test_draws_of_nested_parameters_reach_their_module() -> None:
    model = ds.models.LocalLevel() + ds.models.Seasonal(4)
    values = {
        "noise_variance": torch.tensor([[0.5, 0.7]], dtype=torch.float64),
        "level.level_variance": torch.tensor([[0.1, 0.2]], dtype=torch.float64),
    }
    series = as_series(model, torch.randn(20, 1, dtype=torch.float64))
    changed = Draws(model, series, values).at(0, 1)
    assert changed.noise_variance.item() == pytest.approx(0.7)  # type: ignore[union-attr]
    assert changed.level.level_variance.item() == pytest.approx(0.2)  # type: ignore[union-attr]


def test_a_tree_of_draws_goes_through_loo() -> None:
    """Oracle: exact cross-validation, by refitting on a grid without each step."""
    draws = _draws(4, 100)
    tree = to_datatree(draws, pointwise="leave_one_out")
    posterior = tree.children["posterior"].to_dataset()
    assert posterior["R"].dims == ("chain", "draw", "R_dim_0", "R_dim_1")
    np.testing.assert_array_equal(posterior["R"].values, draws.parameters["R"])
    group = tree.children["log_likelihood"].to_dataset()
    assert dict(group.sizes) == {"chain": 4, "draw": 100, "time": 29}
    found = loo(tree)
    assert elpd(found) == pytest.approx(_exact(draws.series).item(), abs=0.1)
    assert set(tree.children) == {"posterior", "log_likelihood", "observed_data"}


def _exact(series: Series) -> Tensor:
    models = [_model(r) for r in torch.linspace(0.2, 3, 60).double().tolist()]
    total = torch.stack([ds.log_likelihood(model, series.y).sum() for model in models])
    points = torch.stack([
        ev.leave_one_out(m, series).log_density for m in models
    ])  # fmt: skip
    weights = (total[:, None] - points).softmax(0)
    return (weights * points.exp()).sum(0).log().sum().detach()


def test_draws_must_share_their_leading_axes() -> None:
    wrong = {"R": torch.ones(2, 3, 1, 1), "Q": torch.ones(2, 4, 1, 1)}
    with pytest.raises(ValueError, match="`parameters` must share the leading axes"):
        to_datatree(Draws(_model(), _series(), wrong))
    with pytest.raises(ValueError, match="`parameters` must share"):
        to_datatree(Draws(_model(), _series(), {}))


def test_leave_one_out_of_other_models_is_refused() -> None:
    class Unknown(StateSpaceModel):
        state_dim = obs_dim = 1

    draws = Draws(Unknown(), _series(), {"a": torch.ones(1, 2)}, ds.inference.Kalman())
    with pytest.raises(ValueError, match='"leave_one_out"` needs a linear-Gaussian model'):
        draws.pointwise("leave_one_out")
