"""What the README shows, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

import deepssm as ds
from deepssm.api import fitting as api
from deepssm.data import embedded

README = Path(__file__).parents[1] / "README.md"


def _blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_a_film_is_imputed_in_nine_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Kalman VAE as printed, with few steps."""
    (block,) = (b for b in _blocks() if "KalmanVAE(" in b)
    assert len([line for line in block.splitlines() if line.strip()]) <= 9
    quick = ds.inference.CollapsedSVI(steps=2, starts=1)
    monkeypatch.setattr(api, "default_learner", lambda model: quick)
    found: dict[str, object] = {}
    exec(block, found)
    imputed, y = found["imputed"], found["y"]
    assert isinstance(imputed, torch.Tensor) and isinstance(y, torch.Tensor)
    assert bool(torch.isfinite(imputed).all())
    assert torch.equal(imputed[:3].reshape(3, -1), y[0, :3])


def test_a_deep_model_takes_twelve_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, fit and forecast, as printed, on the last rows of the record and with few steps."""
    (block,) = (b for b in _blocks() if "DeepMarkov(" in b and "import deepssm" in b)
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 12
    whole = embedded.co2()
    monkeypatch.setattr(ds.data, "co2", lambda: whole.iloc[-200:])
    quick = ds.inference.SVI(steps=2, report_every=2)
    monkeypatch.setattr(api, "default_learner", lambda model: quick)
    found: dict[str, object] = {}
    exec(block, found)
    forecast, lower, upper = found["forecast"], found["lower"], found["upper"]
    assert isinstance(forecast, ds.Forecast) and isinstance(lower, torch.Tensor)
    assert isinstance(upper, torch.Tensor) and bool((lower < upper).all())
    assert forecast.mean.shape == (104, 1) and forecast.index is not None
    assert forecast.index[0] == whole.index[-1] + pd.Timedelta(weeks=1)


def test_what_the_readme_shows_is_python() -> None:
    for block in _blocks():
        compile(block, "README.md", "exec")
