"""Arguments of a wrong kind are refused by name, whatever model or method is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import deepssm as ds
from deepssm.core.arguments import checked

M, METHODS = ds.models, ds.inference
WRONG: dict[str, Callable[[], object]] = {
    "period": lambda: M.Seasonal("a"),  # type: ignore[arg-type]
    "level_variance": lambda: M.LocalLevel("a"),  # type: ignore[arg-type]
    "size": lambda: M.Regression(2.5),  # type: ignore[arg-type]
    "series_shape": lambda: M.LocalLevel(series_shape=3),  # type: ignore[arg-type]
    "name": lambda: M.LocalLevel(name=3),  # type: ignore[arg-type]
    "obs_dim": lambda: M.DeepMarkov("3", 2),  # type: ignore[arg-type]
    "dims": lambda: M.ConstantVelocity("2"),  # type: ignore[arg-type]
    "features": lambda: M.S4("a"),  # type: ignore[arg-type]
    "num_particles": lambda: METHODS.Particle("100"),  # type: ignore[arg-type]
    "alpha": lambda: METHODS.Unscented(alpha="1"),  # type: ignore[arg-type]
    "steps": lambda: METHODS.SVI(steps="many"),  # type: ignore[arg-type]
    "order": lambda: METHODS.GaussHermite("3"),  # type: ignore[arg-type]
    "emission": lambda: M.HiddenMarkov("x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_kinds_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got .* in `"):
        WRONG[name]()


def test_numbers_of_other_libraries_are_numbers() -> None:
    assert M.Autoregressive(np.int64(2)).state_dim == 2  # type: ignore[arg-type]
    assert M.Seasonal(np.float32(7)).state_dim == 6
    assert float(M.LocalLevel(torch.tensor(2.0)).level_variance) == 2.0  # type: ignore[arg-type]
    assert M.Regression(2, variance=np.array([1.0, 2.0])).state_dim == 2  # type: ignore[arg-type]


def test_signatures_and_other_errors_are_those_of_the_class() -> None:
    assert list(inspect.signature(M.LocalLevel).parameters)[0] == "level_variance"
    with pytest.raises(TypeError, match="unexpected keyword"):
        M.LocalLevel(nothing=1.0)  # type: ignore[call-arg]

    @checked
    class Own:
        def __init__(self, size: int, *others: Any, scale: float = 1.0) -> None:  # noqa: ANN401
            self.size, self.others, self.scale = size, others, scale

    assert Own(1, "a", scale=2).others == ("a",)
    with pytest.raises(ValueError, match=r"`scale` must be a number, got 'x' \(str\) in `Own"):
        Own(1, scale="x")  # type: ignore[arg-type]
