from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from deepssm import data


def test_nile_is_the_record_of_cobb() -> None:
    statsmodels = pytest.importorskip("statsmodels.datasets.nile")
    flow = data.nile()
    assert isinstance(flow.index, pd.DatetimeIndex) and flow.index.freqstr == "YS-JAN"
    assert (flow.index[0].year, flow.index[-1].year) == (1871, 1970)
    np.testing.assert_array_equal(flow.to_numpy(), statsmodels.load_pandas().data["volume"])


def test_co2_is_the_mauna_loa_record_with_its_gaps() -> None:
    statsmodels = pytest.importorskip("statsmodels.datasets.co2")
    observations = data.co2()
    assert (
        isinstance(observations.index, pd.DatetimeIndex) and observations.index.freqstr == "W-SAT"
    )
    assert len(observations) == 2284 and observations.isna().sum() == 59
    expected = statsmodels.load_pandas().data["co2"]
    np.testing.assert_array_equal(observations.to_numpy(), expected.to_numpy())
    assert (observations.index == expected.index).all()
