"""Published likelihoods of econometric models; the data come with statsmodels' own tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.kalman.method import Kalman
from deepssm.models import LinearGaussian

RESULTS = "statsmodels.tsa.statespace.tests.results"


def results(name: str) -> Any:  # noqa: ANN401
    return pytest.importorskip(f"{RESULTS}.{name}", reason="statsmodels' test results are absent")


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def steps(model: LinearGaussian, y: Tensor) -> Tensor:
    return Kalman().log_likelihood(model, Series(y))


def test_clark_1987_trend_and_cycle_of_output() -> None:
    """Kim & Nelson's GAUSS programs: the sum from t = 21, and a filtered state.

    GAUSS printed 578.520887; statsmodels and we find 578.5208841 at the printed parameters.
    """
    case = results("results_kalman_filter").uc_uni
    v, e, w, phi1, phi2 = case["parameters"]
    A = tensor([[1, 0, 0, 1], [0, phi1, phi2, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    Q = torch.diag(tensor([v, e, 0.0, w]).square())
    model = LinearGaussian(A, Q, [[1.0, 1.0, 0.0, 0.0]], [[0.0]], P0=100 * A @ A.mT)
    y = tensor(case["data"]).log().reshape(-1, 1)
    total = steps(model, y)[case["start"] :].sum().item()
    assert total == pytest.approx(578.5208841, abs=1e-6)
    assert total == pytest.approx(case["loglike"], abs=1e-5)
    state = Kalman().filter(model, Series(y)).mean[case["start"]]
    expected = tensor([7.369243, 0.013317, 0.018762])
    torch.testing.assert_close(state[[0, 1, 3]], expected, rtol=0, atol=1e-4)


def test_clark_1989_output_and_unemployment() -> None:
    case = results("results_kalman_filter").uc_bi
    v, e, w, vl, ec, phi1, phi2, *alpha = case["parameters"]
    A = torch.zeros(6, 6, dtype=torch.float64)
    A[0, 0] = A[0, 4] = A[2, 1] = A[3, 2] = A[4, 4] = A[5, 5] = 1.0
    A[1, 1], A[1, 2] = phi1, phi2
    Q = torch.diag(tensor([v, e, 0.0, 0.0, w, vl]).square())
    C = tensor([[1, 1, 0, 0, 0, 0], [0, *alpha, 0, 1]])
    R = torch.diag(tensor([0.0, ec**2]))
    data = tensor(case["data"])
    y = torch.stack([data[:, 0].log(), data[:, 1] / 100], -1)[4:]
    model = LinearGaussian(A, Q, C, R, P0=100 * A @ A.mT)
    assert steps(model, y).sum().item() == pytest.approx(1485.41934, abs=1e-4)


def test_stata_arima_of_wholesale_prices() -> None:
    case = results("results_sarimax").wpi1_stationary
    (phi,), (theta,) = case["params_ar"], case["params_ma"]
    noise = tensor([1.0, theta])
    model = LinearGaussian(
        [[phi, 1.0], [0.0, 0.0]],
        case["params_variance"][0] * torch.outer(noise, noise),
        [[1.0, 0.0]],
        [[0.0]],
        d=case["params_mean"],
        initial="stationary",
    )
    y = tensor(case["data"]).diff()[:, None]
    assert steps(model, y).sum().item() == pytest.approx(-135.35131, abs=1e-5)


def test_stata_airline_model() -> None:
    """(0,1,1)(0,1,1)_12 of log passengers: a moving average of order 13."""
    case = results("results_sarimax").air2_stationary
    (theta,), (seasonal,) = case["params_ma"], case["params_seasonal_ma"]
    weights = torch.zeros(14, dtype=torch.float64)
    weights[0], weights[1], weights[12], weights[13] = 1, theta, seasonal, theta * seasonal
    shift = torch.diag(torch.ones(13, dtype=torch.float64), -1)
    Q = torch.zeros(14, 14, dtype=torch.float64)
    Q[0, 0] = case["params_variance"][0]
    model = LinearGaussian(shift, Q, weights[None], [[0.0]], initial="stationary")
    y = tensor(case["data"]).log().diff()
    y = (y[12:] - y[:-12])[:, None]
    # The torch loop: compiling the scalar kernel for 14 states takes longer than the test.
    total = Kalman(backend="autograd").log_likelihood(model, Series(y)).sum().item()
    assert total == pytest.approx(244.69651, abs=1e-4)


def lutkepohl() -> Tensor:
    data = tensor(results("results_varmax").lutkepohl_data)
    return data.log().diff(dim=0)[:75]


def test_stata_vector_autoregression() -> None:
    case = results("results_varmax").lutkepohl_var1
    A = tensor(case["params"][:9]).reshape(3, 3)
    L = torch.zeros(3, 3, dtype=torch.float64)
    L[tuple(torch.tril_indices(3, 3))] = tensor(case["params"][9:])
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    model = LinearGaussian(A, L @ L.mT, eye, zero, initial="stationary")
    total = steps(model, lutkepohl()).sum().item()
    assert total == pytest.approx(587.8481019, abs=1e-4)


def test_stata_dynamic_factor() -> None:
    case = results("results_dynamic_factor").lutkepohl_dfm
    loadings, noise, phi = (tensor(case["params"][i:j]) for i, j in ((0, 3), (3, 6), (6, 8)))
    C = torch.stack([loadings, torch.zeros(3, dtype=torch.float64)], -1)
    A = torch.stack([phi, tensor([1.0, 0.0])])
    Q = torch.diag(tensor([1.0, 0.0]))
    model = LinearGaussian(A, Q, C, torch.diag(noise), initial="stationary")
    total = steps(model, lutkepohl()).sum().item()
    assert total == pytest.approx(594.0902026, abs=1e-4)
