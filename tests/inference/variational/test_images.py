"""Models of images find a reader of images by themselves."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

import deepssm as ds
from deepssm.api.defaults import default_learner
from deepssm.inference import SVI, ImageReader, MaskedSuffix, SmoothingGuide
from deepssm.models import DeepMarkov, ImageEmission


def _films(count: int = 4, time: int = 9) -> torch.Tensor:
    """A bright column that moves by one pixel a step, frames missing."""
    films = torch.full((count, time, 8, 8), 0.1)
    for i in range(count):
        for t in range(time):
            films[i, t, :, (i + t) % 8] = 0.9
    films = films.flatten(2)
    films[0, 4], films[1, 5:7] = torch.nan, torch.nan
    films[2, 3, :10] = torch.nan
    return films


@pytest.mark.parametrize("pixel", ["gaussian", "bernoulli"])
def test_a_fit_of_images_reads_them_by_convolutions(
    pixel: Literal["gaussian", "bernoulli"],
) -> None:
    emission = ImageEmission(3, 8, 8, 1, channels=4, pixel=pixel)
    model = DeepMarkov(64, 3, input_dim=1, emission=emission, hidden=8)
    films, u = _films(), torch.randn(4, 9, 1, generator=torch.Generator().manual_seed(0))
    y = films if pixel == "gaussian" else films.round()
    generator = torch.Generator().manual_seed(0)
    fit = ds.fit(
        model, y, u, method=SVI(steps=2, batch_size=2, hidden=6), progress=False,
        generator=generator,
    )  # fmt: skip
    guide = fit.method.guide  # type: ignore[attr-defined]
    assert isinstance(guide, SmoothingGuide) and isinstance(guide.reader, ImageReader)
    filled = fit.impute(num_samples=5, generator=generator)
    seen = ~torch.isnan(y)
    assert torch.equal(filled.mean[seen], y[seen]) and bool(filled.mean.isfinite().all())
    # Both sides of a gap are read: a frame after it moves the states within.
    later = y.clone()
    later[0, 5:] = later[0, 5:].flip(0)
    means = []
    for x in (y, y, later):
        torch.manual_seed(0)
        means.append(guide(model, fit.series._replace(y=x)).drawn().mean[0, 4])
    assert torch.equal(means[0], means[1]) and not torch.equal(means[1], means[2])


def test_images_learn_with_their_last_frames_hidden() -> None:
    model = DeepMarkov(64, 3, emission=ImageEmission(3, 8, 8))
    learner = default_learner(model)
    assert isinstance(learner, SVI) and isinstance(learner.objective, MaskedSuffix)
    other = default_learner(DeepMarkov(2, 3))
    assert isinstance(other, SVI) and other.objective is None
