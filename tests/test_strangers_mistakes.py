"""What a stranger forgets in an extension of his own, and what he is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

import deepssm as ds
from deepssm.inference import SVI, MaximumLikelihood, Unscented, as_posterior
from deepssm.models import SequenceLayer, StructuredLayer


class Nothing(ds.StateSpaceModel):
    state_dim = obs_dim = 1


class Bare(SequenceLayer):
    pass


class Systemless(StructuredLayer):
    pass


def test_a_distribution_that_is_missing_is_named() -> None:
    z = torch.zeros(1)
    for call, name in (
        (Nothing().initial, r"initial\(self\)"),
        (lambda: Nothing().transition(z), r"transition\(self, z, u, dt\)"),
        (lambda: Nothing().emission(z), r"emission\(self, z, u\)"),
    ):
        with pytest.raises(NotImplementedError, match=f"Nothing does not define `{name}`"):
            call()


def test_a_layer_without_run_or_system_is_named() -> None:
    with pytest.raises(NotImplementedError, match="Bare does not define `run"):
        Bare(2)(torch.zeros(3, 2))
    with pytest.raises(NotImplementedError, match="Systemless does not define `system"):
        Systemless(2)(torch.zeros(3, 2))


def test_a_module_is_no_model() -> None:
    with pytest.raises(ValueError, match="derive your own from `ds.StateSpaceModel`"):
        ds.filter(nn.Linear(1, 1), [1.0])  # type: ignore[arg-type]


def test_a_class_is_no_inner_method() -> None:
    learner = MaximumLikelihood(inference=Unscented)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`inference` must infer states.*the class Unscented"):
        ds.fit(ds.models.LocalLevel(), [1.0, 2.0, 3.0], method=learner)


def test_a_class_is_no_guide() -> None:
    model = ds.models.DeepMarkov(1, 1)
    with pytest.raises(ValueError, match="`guide` must be a guide, got the class Linear"):
        ds.fit(model, [1.0, 2.0], method=SVI(nn.Linear), progress=False)  # type: ignore[arg-type]


def test_batch_axes_in_the_event_of_a_posterior_are_named() -> None:
    model = ds.models.DeepMarkov(1, 1)
    series = ds.as_series(model, torch.zeros(3, 5, 1))
    whole = Independent(Normal(torch.zeros(3, 5, 1), 1.0), 3)
    with pytest.raises(ValueError, match="leave the first 1 of its event axes to the batch"):
        as_posterior(whole, model, series)
