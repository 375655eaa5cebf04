from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.api.validation import as_series
from deepssm.core.methods import Learned
from deepssm.core.model import Series, StateSpaceModel
from deepssm.interop import arviz as bridge
from deepssm.interop.arviz import elpd, import_arviz, loo, to_arviz
from deepssm.interop.datatree import to_datatree

INDEX = pd.date_range("2020-01-05", periods=20, freq="W", name="week")


class _Nothing(NamedTuple):
    """A learner that leaves the model as it is."""

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        return Learned(ds.inference.Kalman(), -12.5, [], {}, {}, [])


class _Unknown(StateSpaceModel):
    state_dim, obs_dim = 2, 3


class _Same(ds.inference.Kalman):
    """Smooths by looking the answer up."""

    def __init__(self, fit: ds.Fit) -> None:
        object.__setattr__(self, "answer", fit.smooth())

    def smooth(self, model: StateSpaceModel, series: Series) -> ds.Smoothed:
        return self.answer  # type: ignore[attr-defined]


def _model() -> ds.models.LinearGaussian:
    A = torch.tensor([[0.9, 0.4], [-0.2, 0.7]])
    C = torch.tensor([[1.0, 0.5], [0.3, -1.0], [0.2, 0.1]])
    Q = PyroParam(0.3 * torch.eye(2, dtype=torch.float64), constraints.positive_definite)
    return ds.models.LinearGaussian(
        A, Q, C, 0.5 * torch.eye(3), B=torch.ones(2, 1), P0=torch.eye(2)
    )


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    _, y = ds.simulate(_model(), 20, u=u, generator=generator)
    y[3, 1] = y[7] = float("nan")
    return y, u


def _fit() -> ds.Fit:
    y, u = _data()
    frame = pd.DataFrame(y.numpy(), INDEX, ["a", "b", "c"])
    return ds.fit(_model(), frame, u, method=_Nothing())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _group(tree: xr.DataTree, name: str) -> xr.Dataset:
    return tree.children[name].to_dataset()


def test_a_fit_fills_the_groups_of_arviz() -> None:
    fit = _fit()
    tree = to_datatree(fit, num_samples=7, generator=_generator())
    assert set(tree.children) == {
        "posterior", "posterior_predictive", "log_likelihood", "sample_stats", "smoothed",
        "observed_data", "constant_data",
    }  # fmt: skip
    posterior = _group(tree, "posterior")
    assert posterior["z"].dims == ("chain", "draw", "time", "state")
    assert dict(posterior.sizes)["draw"] == 7 and list(posterior["state"].values) == ["z0", "z1"]
    assert posterior["Q"].dims == ("chain", "draw", "Q_dim_0", "Q_dim_1")
    np.testing.assert_allclose(posterior["Q"].isel(chain=0, draw=4), 0.3 * np.eye(2))
    predictive = _group(tree, "posterior_predictive")["y"]
    assert predictive.dims == ("chain", "draw", "time", "obs") and not predictive.isnull().any()
    observed = _group(tree, "observed_data")["y"]
    assert list(observed["obs"].values) == ["a", "b", "c"]
    assert (observed.indexes["time"] == INDEX).all() and int(observed.isnull().sum()) == 4
    np.testing.assert_array_equal(_group(tree, "constant_data")["u"].values, fit.series.u)
    assert _group(tree, "sample_stats")["objective"].item() == -12.5
    np.testing.assert_array_equal(_group(tree, "smoothed")["z_mean"].values, fit.smooth().mean)


def test_state_draws_are_those_of_the_verb_and_observations_come_from_them() -> None:
    fit = _fit()
    tree = to_datatree(fit, num_samples=2000, generator=_generator())
    expected = fit.sample_posterior(num_samples=2000, generator=_generator())
    np.testing.assert_array_equal(_group(tree, "posterior")["z"].values[0], expected.detach())
    replicated = _group(tree, "posterior_predictive")["y"].values[0]
    residual = replicated - (expected @ _model().C.mT).numpy(force=True)
    # 40000 residuals a component: a random seed fails about once in 1e4.
    assert abs(residual.var((0, 1)) / 0.5 - 1).max() < 4 * (2 / 40000) ** 0.5
    assert abs(residual.mean((0, 1))).max() < 4 * (0.5 / 40000) ** 0.5


def test_without_draws_a_fit_has_its_parameters_as_one_draw() -> None:
    tree = to_datatree(_fit())
    assert "posterior_predictive" not in tree.children and "z" not in _group(tree, "posterior")
    assert dict(_group(tree, "posterior").sizes)["draw"] == 1
    assert "point estimate" in _group(tree, "posterior").attrs["parameters"]


def test_two_pointwise_arrays_are_never_mixed() -> None:
    fit = _fit()
    one = _group(to_datatree(fit), "log_likelihood")
    out = _group(to_datatree(fit, pointwise="leave_one_out"), "log_likelihood")
    assert (one.attrs["pointwise"], out.attrs["pointwise"]) == ("one_step", "leave_one_out")
    assert one["y"].dims == out["y"].dims == ("chain", "draw", "time")
    np.testing.assert_array_equal(one["y"].values[0, 0], fit.log_likelihood().detach())
    expected = ev.leave_one_out(_model(), fit.series).log_density
    seen = torch.arange(20) != 7
    np.testing.assert_allclose(out["y"].values[0, 0], expected[seen].numpy(force=True))
    assert (out.indexes["time"] == INDEX.delete(7)).all()
    assert list(one.data_vars) == list(out.data_vars) == ["y"]


def test_filtered_and_forecast_share_a_tree() -> None:
    fit = _fit()
    drawn = fit.forecast(5, u_future=torch.zeros(5, 1), num_samples=6, generator=_generator())
    tree = to_datatree(fit.filter(), drawn)
    assert set(tree.children) == {"filtered", "log_likelihood", "sample_stats", "predictions"}
    y = _group(tree, "predictions")["y"]
    assert y.dims == ("chain", "draw", "time_forecast", "obs") and y.shape == (1, 6, 5, 3)
    assert y.indexes["time_forecast"][0] == pd.Timestamp("2020-05-24")
    exact = _group(to_datatree(fit.forecast(5, u_future=torch.zeros(5, 1))), "predictions")
    assert exact["y_cov"].dims == ("time_forecast", "obs", "obs_bis") and "y" not in exact
    with pytest.raises(ValueError, match="Two of the `results` give the group log_likelihood"):
        to_datatree(fit.filter(), fit.smooth())


@pytest.mark.parametrize(("batch", "dims"), [((4,), ("series",)), ((2, 3), ("batch0", "batch1"))])
def test_batches_are_dimensions(batch: tuple[int, ...], dims: tuple[str, ...]) -> None:
    y, u = _data()
    model = _model()
    many = y.expand(*batch, *y.shape)
    tree = to_datatree(ds.filter(model, many, u))
    assert _group(tree, "filtered")["z_mean"].dims == (*dims, "time", "state")
    assert _group(tree, "log_likelihood")["y"].dims == ("chain", "draw", *dims, "time")
    assert _group(tree, "sample_stats")["ill_conditioned"].dims == ("chain", "draw", *dims)
    z = ds.sample_posterior(model, many, u, num_samples=3)
    assert _group(to_datatree(z), "posterior")["z"].dims == (
        "chain",
        "draw",
        *dims,
        "time",
        "state",
    )


@pytest.mark.parametrize(
    "index",
    [
        INDEX,
        pd.period_range("2020-01", periods=20, freq="M"),
        pd.date_range("2020-03-28", periods=20, freq="h", tz="Europe/Berlin"),
        pd.RangeIndex(20),
    ],
)
def test_a_netcdf_file_gives_everything_back(index: pd.Index, tmp_path: Path) -> None:
    y, u = _data()
    frame = pd.DataFrame(y.numpy(), index, ["a", "b", "c"])
    fit = ds.fit(_model(), frame, u, method=_Nothing())
    future = fit.forecast(3, u_future=torch.zeros(3, 1), num_samples=4, generator=_generator())
    tree = to_datatree(fit, future, num_samples=5, generator=_generator())
    tree.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "run.nc", engine="h5netcdf") as again:
        xr.testing.assert_identical(again.load(), tree)


def test_the_installed_arviz_takes_the_result(tmp_path: Path) -> None:
    arviz = import_arviz()
    data = to_arviz(_fit(), num_samples=50, generator=_generator())
    if bridge._is_old(arviz):
        assert isinstance(data, arviz.InferenceData)
    summary = arviz.summary(data, var_names=["Q"], kind="stats")
    np.testing.assert_allclose(summary["mean"].astype(float), [0.3, 0, 0, 0.3], atol=1e-3)
    data.to_netcdf(str(tmp_path / "run.nc"))
    again = arviz.from_netcdf(str(tmp_path / "run.nc"))
    assert again["posterior"]["z"].shape == (1, 50, 20, 2)


def test_arviz_1_gets_the_tree_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in() -> ModuleType:
        return SimpleNamespace(__version__="1.3.0")  # type: ignore[return-value]

    monkeypatch.setattr(bridge, "import_arviz", stand_in)
    assert isinstance(to_arviz(_fit()), xr.DataTree)


def test_loo_needs_posterior_draws_of_the_right_kind() -> None:
    fit = _fit()
    with pytest.raises(ValueError, match="LOO needs posterior draws; this fit has one parameter"):
        loo(to_arviz(fit, pointwise="leave_one_out"))
    tree = to_datatree(fit)
    many = _group(tree, "log_likelihood").isel(draw=[0] * 100).assign_coords(draw=range(100))
    with pytest.raises(ValueError, match='one-step densities.*pointwise="leave_one_out"'):
        loo(xr.DataTree.from_dict({"log_likelihood": many}))


def _local_level_draws(draws: int) -> tuple[xr.DataTree, Tensor]:
    """Posterior of a noise variance on a grid, with leave-one-out densities at each draw."""
    generator = _generator()
    y = torch.randn(30, 1, generator=generator, dtype=torch.float64).cumsum(0)
    eye = torch.eye(1)
    grid = torch.linspace(0.2, 3, 60, dtype=torch.float64)
    models = [ds.models.LinearGaussian(eye, eye, eye, r * eye, P0=eye) for r in grid]
    total = torch.stack([ds.log_likelihood(model, y).sum() for model in models])
    chosen = torch.multinomial(total.softmax(0), draws, replacement=True, generator=generator)
    points = torch.stack([
        ev.leave_one_out(m, as_series(m, y)).log_density for m in models
    ])  # fmt: skip
    values = points[chosen][None]
    tree = xr.DataTree.from_dict({
        "posterior": xr.Dataset({"r": (("chain", "draw"), grid[chosen][None].numpy())}),
        "log_likelihood": xr.Dataset(
            {"y": (("chain", "draw", "time"), values.numpy())},
            attrs={"pointwise": "leave_one_out"},
        ),
    })  # fmt: skip
    weights = (total[:, None] - points).softmax(0)
    return tree, (weights * points.exp()).sum(0).log().sum()


def test_loo_of_many_draws_is_the_exact_cross_validation() -> None:
    """Oracle: refit without each step, on the grid itself, in place of importance sampling."""
    tree, exact = _local_level_draws(2000)
    found = loo(tree)
    assert elpd(found) == pytest.approx(exact.item(), abs=0.1)


def test_what_is_not_a_result_is_refused() -> None:
    with pytest.raises(ValueError, match="`results` must be fits.*got Simulated"):
        to_datatree(ds.simulate(_model(), 3, u=torch.zeros(3, 1)))  # type: ignore[arg-type]
    fit = _fit()
    with pytest.raises(ValueError, match='"leave_one_out"` needs a linear-Gaussian model'):
        other = fit._replace(model=_Unknown(), learned=fit.learned._replace(method=_Same(fit)))
        to_datatree(other.labelled(fit.labels), pointwise="leave_one_out")


def test_a_missing_arviz_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ModuleNotFoundError, match="`to_arviz` needs ArviZ: pip install arviz"):
        to_arviz(torch.zeros(2, 3, 1))


def test_building_a_tree_does_not_import_arviz() -> None:
    code = (
        "import sys, torch, deepssm\n"
        "from deepssm.interop.datatree import to_datatree\n"
        "to_datatree(torch.zeros(2, 3, 1))\n"
        "assert 'arviz' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_deep_fit_goes_to_arviz_by_name(tmp_path: Path) -> None:
    """Filtered, smoothed, forecast and draws of a deep model, with its rows and columns."""
    arviz = pytest.importorskip("arviz")
    y = torch.randn(20, 2, generator=_generator()).cumsum(0)
    y[4, 1] = y[9] = torch.nan
    frame = pd.DataFrame(y.numpy(), INDEX, ["a", "b"])
    model = ds.models.DeepMarkov(2, 3, hidden=4, feedback="emission")
    method = ds.inference.SVI(steps=2, report_every=1)
    fit = ds.fit(model, frame, method=method, progress=False, generator=_generator())
    forecast = fit.forecast(4, num_samples=30)
    data = to_arviz(fit, forecast, num_samples=10, generator=_generator())
    data.to_netcdf(str(tmp_path / "deep.nc"))
    again = arviz.from_netcdf(str(tmp_path / "deep.nc"))
    sizes = {
        "posterior": ("z", {"chain": 1, "draw": 10, "time": 20, "state": 3}),
        "posterior_predictive": ("y", {"chain": 1, "draw": 10, "time": 20, "obs": 2}),
        "predictions": ("y", {"chain": 1, "draw": 30, "time_forecast": 4, "obs": 2}),
        "smoothed": ("z_mean", {"time": 20, "state": 3}),
        "log_likelihood": ("y", {"chain": 1, "draw": 1, "time": 20}),
    }
    for name, (variable, expected) in sizes.items():
        assert dict(again[name][variable].sizes) == expected
    assert list(again["observed_data"]["y"].coords["obs"].values) == ["a", "b"]
    assert (again["posterior"].coords["time"].values == INDEX.values).all()
    assert again["predictions"].coords["time_forecast"].values[0] == INDEX[-1] + pd.Timedelta(
        weeks=1
    )
    assert list(again["posterior"].coords["state"].values) == ["z0", "z1", "z2"]
    assert "emission_net.raw_scale" in again["posterior"]
    # The model has no inputs but its own observations; `groups` differs between the versions.
    assert "constant_data" not in again
    filtered = to_arviz(fit.filter())["filtered"]["z_predicted_cov"]
    assert dict(filtered.sizes) == {"time": 20, "state": 3, "state_bis": 3}
    assert arviz.summary(data, var_names=["initial_mean"], kind="stats").shape[0] == 3
